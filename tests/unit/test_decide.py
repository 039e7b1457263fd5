"""From a failure and a job's facts to one decision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND
from sendq.facts.outcomes import Hold, Scope, Sent
from sendq.rules.rule_ids import POISON
from sendq.rules.states import Event
from tasks.policy.decide import CONCURRENT_TRIES, KEY_TRUSTED, Decision, JobFacts, decide
from tasks.policy.failure import Answer, parse
from tasks.policy.row import Policy, Route
from tasks.policy.table import POLICY
from tests.unit.test_policy import assert_sound

NOW = 1_767_863_513 * SECOND
SEND = JobFacts("send")
MODIFY = JobFacts("modify")
UNKNOWN = SEND._replace(unknown_before=True, key_age=160 * SECOND, attempt_known=True)


def meet(
    status: int | None,
    body: Any = None,
    job: JobFacts = SEND,
    *,
    headers: dict[str, str] | None = None,
    fault: str | None = None,
    chance: float = 0.5,
    provider: str = "google",
    policy: Policy = POLICY,
) -> Decision:
    raw = b"" if body is None else json.dumps(body).encode()
    answer = Answer(status, headers or {}, raw, fault)
    outcome = parse(answer, provider=provider, operation=job.operation, now=NOW)
    return decide(outcome, job, now=NOW, chance=lambda: chance, policy=policy)


def error(kind: str, message: str = "x", provider_error: Any = None) -> dict[str, Any]:
    inner = {"type": kind, "message": message}
    return {"request_id": "r", "error": {**inner, "provider_error": provider_error} if provider_error else inner}


EXCHANGE = error("rate_limit_error", "The Exchange account has been throttled")
BAD = error("invalid_request_error")
REPLAYED = {"idempotent-response": "true"}
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_errors.json").read_text())["cases"]


def refusals() -> list[Any]:
    """A golden refusal of a send for each row that says that it did not go out."""
    found: dict[str, Any] = {}
    for case in GOLDEN:
        headers = {name.lower(): value for name, value in case.get("headers", {}).items()}
        if case["operation"] != "send" or case["status"] is None or isinstance(case["body"], str):
            continue
        refusal = partial(meet, case["status"], case["body"], headers=headers, provider=case["provider"])
        decision = refusal()
        gone = decision.row.scope is Scope.GRANT and decision.row.route is Route.DEAD_LETTER
        if decision.sent is Sent.NO and not gone:
            found.setdefault(decision.rule, pytest.param(refusal, id=case["name"]))
    return list(found.values())


REFUSALS = refusals()


class TestAFailureOfAProvider:
    DISABLED = error("provider_error", "Gmail API has not been used in project 42")

    def hold_of(self, provider: str) -> Hold | None:
        answer = Answer(403, {}, json.dumps(self.DISABLED).encode())
        outcome = parse(answer, provider=provider, operation="send", now=NOW)
        return decide(outcome, SEND, now=NOW, chance=lambda: 0.5).hold

    def test_holds_the_provider(self) -> None:
        hold = self.hold_of("google")
        assert hold is not None
        assert (hold.scope, hold.identify) == (Scope.PROVIDER, False)

    def test_holds_the_grant_alone_while_its_provider_is_unknown(self) -> None:
        hold, known = self.hold_of("unknown"), self.hold_of("google")
        assert hold is not None
        assert known is not None
        assert (hold.scope, hold.identify, hold.until) == (Scope.GRANT, True, known.until)

    def test_of_the_whole_application_holds_it_whatever_the_provider(self) -> None:
        outcome = parse(Answer(None, {}, b"", "dns"), provider="unknown", operation="send", now=NOW)
        hold = decide(outcome, SEND, now=NOW, chance=lambda: 0.5).hold
        assert hold is not None
        assert (hold.scope, hold.identify) == (Scope.APPLICATION, False)


class TestASuccess:
    def test_accepts_the_job(self) -> None:
        decision = meet(200, {"data": {"id": "m"}})
        assert (decision.event, decision.row.route, decision.sent) == (Event.ACCEPT, None, Sent.YES)
        assert decision.costs_attempt

    def test_costs_nothing_as_a_replay(self) -> None:
        assert not meet(200, {"data": {"id": "m"}}, headers=REPLAYED).costs_attempt


class TestAProcessThatDiedOfTheJob:
    def test_leaves_a_send_in_doubt_for_nobody_knows_whether_it_went_out(self) -> None:
        for job in (SEND, UNKNOWN):
            decision = meet(None, fault="died", job=job)
            assert (decision.event, decision.rule, decision.sent) == (Event.DOUBT, POISON, Sent.MAYBE)

    def test_ends_a_modification(self) -> None:
        decision = meet(None, fault="died", job=MODIFY)
        assert (decision.event, decision.rule, decision.sent) == (Event.GIVE_UP, POISON, Sent.MAYBE)


class TestAHold:
    def test_lasts_what_was_stated_and_a_little_more(self) -> None:
        ends = [meet(429, EXCHANGE, headers={"retry-after": "100"}, chance=chance).wait for chance in (0.0, 1.0)]
        assert ends == [100 * SECOND, 105 * SECOND]

    def test_concerns_its_scope_and_costs_nothing(self) -> None:
        decision = meet(429, EXCHANGE, chance=0.0)
        assert decision.hold is not None
        assert (decision.hold.scope, decision.hold.until, decision.hold.rule) == (
            Scope.GRANT,
            NOW + 1200 * SECOND,
            decision.rule,
        )
        assert not decision.costs_attempt

    def test_moves_the_generation_since_the_api_stores_the_refusal(self) -> None:
        assert meet(429, EXCHANGE).new_generation
        assert not meet(429, EXCHANGE, MODIFY).new_generation

    @pytest.mark.parametrize(("status", "code"), [(429, "ApplicationThrottled"), (503, "ErrorServerBusy")])
    def test_that_leaves_a_send_in_doubt_goes_on_with_one_call_at_a_time(self, status: int, code: str) -> None:
        decision = meet(status, error("provider_error", "x", {"error": {"code": code, "message": "busy"}}))
        assert (decision.event, decision.width) == (Event.DOUBT, 1)

    def test_keeps_the_job_even_if_its_time_ends_inside(self) -> None:
        assert meet(429, EXCHANGE, SEND._replace(expires_at=NOW + 5 * SECOND)).event is Event.RETURN

    def test_of_an_unreachable_api_keeps_the_key(self) -> None:
        decision = meet(None, fault="connect")
        assert (decision.row.route, decision.row.scope, decision.new_generation) == (
            Route.REQUEUE,
            Scope.APPLICATION,
            False,
        )

    @pytest.mark.parametrize(
        ("status", "body"),
        [(403, b"<html>Access denied</html>"), (404, b"404 page not found"), (407, b"{}"), (302, b"")],
    )
    def test_by_a_proxy_keeps_the_key_for_it_may_hide_the_answer_of_the_api(self, status: int, body: bytes) -> None:
        outcome = parse(Answer(status, {}, body), provider="google", operation="send", now=NOW)
        for job in (SEND, UNKNOWN):
            decision = decide(outcome, job, now=NOW, chance=lambda: 0.5)
            assert (decision.event, decision.row.scope) == (Event.RETURN, Scope.APPLICATION)
            assert (decision.new_generation, decision.sent) == (False, Sent.MAYBE)

    def test_tells_the_lane_what_to_keep_to(self) -> None:
        concurrency = error("rate_limit_error", "x", {"code": "ApplicationThrottled", "message": "MailboxConcurrency"})
        assert meet(429, concurrency).width == 1
        assert meet(429, error("x", "Resource has been exhausted (e.g. check quota).")).spacing == SECOND


class TestAThrottleThatMayHaveComeAfterTheMessageWentOut:
    THROTTLED = error("rate_limit_error", "x", {"error": {"code": "ApplicationThrottled", "message": "too many"}})

    def test_puts_the_send_in_doubt_and_holds_its_lane(self) -> None:
        decision = meet(429, self.THROTTLED, headers={"retry-after": "30"}, chance=0.0)
        assert (decision.event, decision.sent, decision.new_generation) == (Event.DOUBT, Sent.MAYBE, False)
        assert decision.refused
        assert decision.hold is not None
        assert (decision.hold.scope, decision.hold.until) == (Scope.GRANT, NOW + 30 * SECOND)

    def test_holds_nothing_as_a_replay(self) -> None:
        decision = meet(429, self.THROTTLED, UNKNOWN, headers=REPLAYED)
        assert (decision.event, decision.hold, decision.refused) == (Event.DOUBT, None, True)

    def test_says_nothing_about_an_earlier_request_whose_answer_was_lost(self) -> None:
        decision = meet(429, self.THROTTLED, UNKNOWN)
        assert (decision.event, decision.sent, decision.new_generation) == (Event.RETURN, Sent.MAYBE, False)
        assert decision.hold is not None

    def test_is_no_refusal_if_a_proxy_wrote_it(self) -> None:
        page = Answer(503, {}, b"<html>ErrorServerBusy</html>")
        decision = decide(parse(page, provider="ews", operation="send", now=NOW), SEND, now=NOW, chance=lambda: 0.5)
        assert (decision.sent, decision.refused) == (Sent.MAYBE, False)

    def test_costs_a_modification_nothing(self) -> None:
        decision = meet(429, self.THROTTLED, MODIFY)
        assert (decision.event, decision.sent) == (Event.RETURN, Sent.NO)


class TestReauth:
    def test_closes_the_lane_until_somebody_signs_in(self) -> None:
        decision = meet(403, error("insufficient_scopes"))
        assert decision.hold is not None
        assert (decision.event, decision.hold.until, decision.hold.scope) == (Event.RETURN, None, Scope.GRANT)

    def test_checks_the_grant_first_if_it_could_be_the_key(self) -> None:
        decision = meet(401, error("authentication_error", "Could not verify access credentials"))
        assert decision.row.check_grant
        assert "the grant is checked first" in decision.row.why

    def test_never_comes_from_a_bad_key(self) -> None:
        decision = meet(401, error("token.unauthorized_access"))
        assert (decision.row.route, decision.row.scope, decision.row.alert) == (Route.REQUEUE, Scope.APPLICATION, True)


class TestAnUnknownOutcome:
    def test_asks_again_with_the_same_key(self) -> None:
        for decision in (meet(504), meet(None, fault="timeout"), meet(200, "a page")):
            assert (decision.event, decision.new_generation, decision.sent) == (Event.RETURN, False, Sent.MAYBE)
            assert decision.costs_attempt

    def test_is_a_doubt_once_the_key_is_old(self) -> None:
        assert meet(504, job=SEND._replace(key_age=KEY_TRUSTED)).event is Event.DOUBT

    def test_is_a_doubt_if_the_key_would_be_old_when_it_is_due(self) -> None:
        young = SEND._replace(attempts=5, key_age=KEY_TRUSTED - 60 * SECOND)
        assert meet(504, job=young, chance=0.0).event is Event.RETURN
        assert meet(504, job=young, chance=1.0).event is Event.DOUBT

    def test_is_a_doubt_past_expiry_and_not_an_expiry(self) -> None:
        assert meet(504, job=SEND._replace(expires_at=NOW)).event is Event.DOUBT

    def test_is_a_doubt_and_no_dead_letter_when_tries_are_used_up(self) -> None:
        assert meet(504, job=SEND._replace(attempts=50)).event is Event.DOUBT

    def test_is_no_doubt_for_a_modification(self) -> None:
        assert meet(504, job=MODIFY).event is Event.RETURN
        assert meet(504, job=MODIFY._replace(attempts=50)).event is Event.GIVE_UP


class TestAfterAnUnknownOutcome:
    def test_a_refusal_by_the_gate_proves_nothing_about_the_first_request(self) -> None:
        decision = meet(429, error("rate_limit_error"), UNKNOWN)
        assert (decision.event, decision.new_generation, decision.sent) == (Event.RETURN, False, Sent.MAYBE)

    def test_a_hold_keeps_the_key(self) -> None:
        decision = meet(401, error("token.unauthorized_access"), UNKNOWN)
        assert decision.hold is not None
        assert not decision.new_generation

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_no_refusal_is_definite_whoever_it_comes_from(self, refusal: Callable[..., Decision]) -> None:
        decision = refusal(UNKNOWN)
        assert (decision.event, decision.new_generation, decision.sent) == (Event.RETURN, False, Sent.MAYBE)

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_what_a_refusal_says_of_the_account_holds_all_the_same(self, refusal: Callable[..., Decision]) -> None:
        before, after = refusal(), refusal(UNKNOWN)
        assert (after.rule, after.hold, after.width, after.spacing) == (
            before.rule, before.hold, before.width, before.spacing,
        )  # fmt: skip

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_a_refusal_for_ever_ends_as_a_doubt_once_the_key_is_old(self, refusal: Callable[..., Decision]) -> None:
        decision = refusal(UNKNOWN._replace(key_age=KEY_TRUSTED))
        held = decision.hold is not None  # a hold never moves a generation: it is a doubt at the next claim
        assert decision.event is (Event.RETURN if held else Event.DOUBT)
        assert (decision.new_generation, decision.sent) == (False, Sent.MAYBE)

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_a_replayed_refusal_is_definite(self, refusal: Callable[..., Decision]) -> None:
        decision = refusal(UNKNOWN, headers=REPLAYED)
        assert decision.sent is Sent.NO
        assert decision.event is Event.GIVE_UP or decision.new_generation

    def test_a_final_refusal_is_asked_about_again_before_it_closes_anything(self) -> None:
        waits = [meet(400, BAD, UNKNOWN._replace(attempts=n), chance=1.0).wait for n in range(10)]
        assert waits[:3] == [5 * SECOND, 10 * SECOND, 20 * SECOND]
        assert waits[-1] == 300 * SECOND
        decision = meet(400, BAD, UNKNOWN)
        assert (decision.rule, decision.row.route, decision.costs_attempt) == ("bad_request", Route.RETRY, True)

    def test_a_grant_that_is_not_found_closes_its_lane_and_the_send_keeps_its_key(self) -> None:
        decision = meet(404, error("grant.not_found", "No Grant found for this Grant ID"), UNKNOWN)
        assert decision.hold is not None
        assert (decision.event, decision.sent, decision.new_generation) == (Event.RETURN, Sent.MAYBE, False)
        assert (decision.hold.until, decision.hold.missing, decision.hold.gone) == (None, True, False)

    def test_a_grant_that_is_gone_by_a_row_of_ones_own_leaves_the_send_in_doubt(self) -> None:
        rows = [replace(row, check_grant=False) if row.id == "grant_not_found" else row for row in POLICY.rows]
        answer = error("grant.not_found", "No Grant found for this Grant ID")
        decision = meet(404, answer, UNKNOWN, policy=Policy(rows))
        assert decision.hold is not None
        assert (decision.event, decision.sent, decision.hold.gone) == (Event.DOUBT, Sent.MAYBE, True)

    def test_the_stored_refusal_is_definite(self) -> None:
        assert meet(400, error("invalid_request_error"), UNKNOWN, headers=REPLAYED).event is Event.GIVE_UP

    def test_a_partly_refused_send_is_never_sent_again(self) -> None:
        decision = meet(402, error("x", "Sending to at least one recipient failed"), UNKNOWN)
        assert (decision.event, decision.sent) == (Event.GIVE_UP, Sent.PARTLY)


class TestAReplayedAnswer:
    def test_costs_no_attempt(self) -> None:
        assert not meet(422, error("x"), headers=REPLAYED).costs_attempt

    def test_of_a_server_error_ends_the_asking(self) -> None:
        assert meet(500, job=UNKNOWN, headers=REPLAYED).event is Event.DOUBT

    def test_holds_nobody_if_the_ledger_knows_an_attempt_with_its_key(self) -> None:
        decision = meet(429, EXCHANGE, UNKNOWN, headers=REPLAYED)
        assert (decision.hold, decision.due_at, decision.new_generation) == (None, NOW, True)

    def test_holds_its_scope_if_the_attempt_was_lost(self) -> None:
        assert meet(429, EXCHANGE, headers=REPLAYED).hold is not None

    def test_does_not_outlive_the_jobs_time(self) -> None:
        late = UNKNOWN._replace(expires_at=NOW)
        assert meet(429, EXCHANGE, late, headers=REPLAYED).event is Event.EXPIRE


class TestARetry:
    def test_waits_at_random_between_half_the_base_and_the_ceiling(self) -> None:
        waits = [meet(503, job=MODIFY._replace(attempts=3), chance=chance).wait for chance in (0.0, 0.5, 1.0)]
        assert waits == [2_500_000, 21_250_000, 40 * SECOND]

    def test_never_comes_back_at_once(self) -> None:
        assert meet(422, error("provider_error", "x", "451 4.7.1 Greylisted"), chance=0.0).wait == 150 * SECOND

    def test_waits_at_least_what_was_stated(self) -> None:
        assert meet(503, job=MODIFY, headers={"retry-after": "90"}, chance=0.0).wait == 90 * SECOND

    def test_ends_as_a_dead_letter(self) -> None:
        submission = error("provider_error", "Message delivery submission failed.")
        assert meet(422, submission, SEND._replace(attempts=2)).event is Event.RETURN
        assert meet(422, submission, SEND._replace(attempts=3)).event is Event.GIVE_UP

    def test_uses_a_new_key_after_a_definite_refusal(self) -> None:
        assert meet(422, error("provider_error")).new_generation

    def test_is_not_made_past_the_jobs_expiry(self) -> None:
        assert meet(422, error("provider_error"), SEND._replace(expires_at=NOW + SECOND)).event is Event.EXPIRE


class TestTheKeysConflicts:
    def test_a_request_still_running_is_asked_for_with_the_same_key(self) -> None:
        decision = meet(409, error("api.concurrent_idempotent_request"), UNKNOWN)
        assert (decision.event, decision.new_generation, decision.costs_attempt) == (Event.RETURN, False, False)
        assert decision.wait is not None
        assert 3 * SECOND <= decision.wait <= 6 * SECOND

    def test_a_key_that_is_stuck_is_a_doubt(self) -> None:
        stuck = UNKNOWN._replace(conflicts=CONCURRENT_TRIES - 1)
        assert meet(409, error("api.concurrent_idempotent_request"), stuck).event is Event.DOUBT

    def test_another_payload_under_the_key_goes_to_a_person(self) -> None:
        decision = meet(409, error("api.invalid_idempotent_request"))
        assert (decision.event, decision.sent, decision.row.alert) == (Event.GIVE_UP, Sent.MAYBE, True)

    def test_another_payload_after_an_unknown_outcome_is_a_doubt(self) -> None:
        assert meet(409, error("api.invalid_idempotent_request"), UNKNOWN).event is Event.DOUBT

    def test_a_replayed_throttle_that_took_effect_before_does_not_narrow_the_lane_again(self) -> None:
        throttled = error("rate_limit_error", "ApplicationThrottled: over its MailboxConcurrency limit")
        new = meet(429, throttled)
        assert (new.event, new.sent, new.width) == (Event.DOUBT, Sent.MAYBE, 1)
        again = meet(429, throttled, UNKNOWN, headers=REPLAYED)
        assert (again.event, again.sent, again.width, again.hold) == (Event.DOUBT, Sent.MAYBE, None, None)


FACTS = st.builds(
    JobFacts,
    operation=st.sampled_from(["send", "modify"]),
    attempts=st.integers(0, 10_000),
    key_age=st.integers(0, 10_000 * SECOND),
    expires_at=st.none() | st.integers(NOW - 10**6 * SECOND, NOW + 10**6 * SECOND),
    unknown_before=st.booleans(),
    attempt_known=st.booleans(),
    conflicts=st.integers(0, 100),
    streak=st.integers(0, 10_000),
)


class TestAnyAnswer:
    @given(
        job=FACTS,
        status=st.none() | st.integers(100, 600),
        message=st.sampled_from(
            ["", "throttled", "550 5.1.1 no", "at least one recipient", "invalid_grant", "quota exceeded"]
        ),
        provider_error=st.sampled_from([None, "x", "451 4.7.1"]),
        retry_after=st.sampled_from(["", "1", "30", "90000"]),
        replayed=st.booleans(),
        chance=st.floats(0, 1),
    )
    def test_leads_to_a_sound_decision(
        self,
        job: JobFacts,
        status: int | None,
        message: str,
        provider_error: str | None,
        retry_after: str,
        replayed: bool,
        chance: float,
    ) -> None:
        headers = {"retry-after": retry_after, "idempotent-response": str(replayed)}
        decision = meet(
            status, error("x", message, provider_error), job, headers=headers, fault="timeout", chance=chance
        )
        assert_sound(decision, job)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
    def test_never_moves_the_generation_of_a_send_that_may_have_gone_out(self, status: int) -> None:
        assert not meet(status, error("x"), UNKNOWN).new_generation


class TestAnOutage:
    """Calls of several grants in a row met something else than the API."""

    PAGE = staticmethod(partial(meet, 200, {"status": "ok"}))

    def test_holds_the_application_and_costs_no_attempt(self) -> None:
        decision = self.PAGE(SEND._replace(outage=True), chance=0.0)
        assert decision.hold is not None
        assert (decision.event, decision.hold.scope, decision.rule) == (
            Event.RETURN,
            Scope.APPLICATION,
            "contradiction",
        )
        assert (decision.hold.until, decision.costs_attempt) == (NOW + 5 * SECOND, False)

    @pytest.mark.parametrize("job", [SEND, UNKNOWN, UNKNOWN._replace(attempts=20)], ids=["first", "again", "often"])
    def test_leaves_a_send_its_key(self, job: JobFacts) -> None:
        decision = self.PAGE(job._replace(outage=True))
        assert (decision.event, decision.sent, decision.new_generation) == (Event.RETURN, Sent.MAYBE, False)

    def test_ends_no_modification(self) -> None:
        assert self.PAGE(MODIFY._replace(attempts=20)).event is Event.GIVE_UP
        assert self.PAGE(MODIFY._replace(attempts=20, outage=True)).event is Event.RETURN

    def test_is_held_for_longer_each_time(self) -> None:
        waits = [self.PAGE(SEND._replace(outage=True, streak=n), chance=0.0).wait for n in range(5)]
        assert waits == [5 * SECOND, 10 * SECOND, 20 * SECOND, 40 * SECOND, 60 * SECOND]

    def test_is_none_for_a_row_that_does_not_escalate(self) -> None:
        assert meet(503, error("x"), SEND._replace(outage=True)).hold is None
