"""Why a job is where it is: one answer, the dispatcher's own, and the first that holds.

That it agrees with what the dispatcher does is tested against a ledger (tests/integration/ledger/test_lanes.py).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from sendq.clock import SECOND, moment
from sendq.rules.budgets import UsedUp
from sendq.rules.pace import PACES, Pacer, pacer_of
from sendq.rules.reconcile import Seen
from sendq.rules.situation import EarlierChange, Follows, HoldFacts, JobFacts, Situation
from sendq.rules.states import State
from sendq.rules.waiting_job import HELD, UNAPPROVED
from sendq.rules.warm_up import WarmUp, written
from sendq.rules.why import explain
from sendq.views import Why
from tests.support import facts

NOW = 1_780_000_000 * SECOND
LATER = NOW + 60 * SECOND
JOB = UUID(int=1)


def why(
    *,
    job: dict[str, Any] | None = None,
    lane: dict[str, Any] | None = None,
    no_lane: bool = False,
    held: tuple[HoldFacts, ...] = (),
    **around: Any,
) -> Why:
    """The answer for a job that is due in an open lane with a worker and a dispatcher, but for what is given."""
    job_row: dict[str, Any] = {
        "id": JOB,
        "state": "queued",
        "next_at": NOW,
        "attempts": 0,
        "doubt_at": None,
        "rule": None,
        "seen": None,
        "look_at": None,
        "operation": "send",
        "form": None,
    } | (job or {})
    lane_row = {"next_at": NOW, "provider": "unknown"} | (lane or {})
    values: dict[str, Any] = {
        "job": JobFacts(**job_row),
        "lane": None if no_lane else facts.lane(**lane_row),
        "holds": held,
        "ahead": 3,
        "workers": 1,
        "dispatcher_until": LATER,
        "sealed_with": None,
        "before": None,
        "shut_at": None,
        "shut_because": None,
        "highest_at": 0,
    } | around
    return explain(Situation(**values), now=NOW)


class TestItIsOverABudget:
    USED_UP = UsedUp("shop", "", 500, 3_600 * SECOND, LATER)

    def test_and_names_it_and_the_time(self) -> None:
        at = LATER + 2 * SECOND
        found = why(job={"next_at": at, "rule": "over_budget"}, used_up=(self.USED_UP,))
        assert (found.reason, found.rule, found.until) == ("over_budget", "over_budget", moment(at))
        assert found.says.startswith("it is over the budget of 500 an hour for application shop; it goes on at ")

    def test_and_names_the_one_that_ends_last(self) -> None:
        day = UsedUp("shop", "a=b", 7, 86_400 * SECOND, LATER + 10 * SECOND)
        found = why(job={"next_at": LATER + 11 * SECOND, "rule": "over_budget"}, used_up=(self.USED_UP, day))
        assert "the budget of 7 a day for application shop, tag a=b" in found.says

    def test_and_promises_no_time_as_others_may_use_up_the_next_window_too(self) -> None:
        found = why(job={"next_at": LATER, "rule": "over_budget"}, used_up=(self.USED_UP,))
        assert found.eta is None
        assert found.says.endswith(" at the earliest")

    def test_and_promises_no_time_while_others_ahead_take_up_the_room(self) -> None:
        due = {"next_at": NOW}
        assert why(job=due, room=3, ahead=2).eta is not None
        assert why(job=due, room=3, ahead=3).eta is None
        assert why(job=due | {"doubt_at": NOW}, room=0).eta is not None
        assert why(job=due, held=(HoldFacts("grant", LATER, "x", "policy"),), room=0).eta is None

    def test_unless_it_was_rescheduled_since(self) -> None:
        found = why(job={"next_at": LATER + 1, "due_at": LATER, "rule": "over_budget"}, used_up=(self.USED_UP,))
        assert found.reason == "not_due"

    def test_that_is_no_longer_known(self) -> None:
        found = why(job={"next_at": LATER, "rule": "over_budget"})
        assert "a budget of its application or tags" in found.says


class TestItFollowsAnother:
    AFTER = UUID(int=7)

    def follows(self, **given: Any) -> Follows:
        values: dict[str, Any] = {
            "after_id": self.AFTER, "state": "sent", "failed_by": None, "delay": 0, "unless": None, "check_at": None,
            "trouble": None,
        }  # fmt: skip
        return Follows(**(values | given))

    def waits(self, **given: Any) -> Why:
        return why(job={"next_at": HELD, "rule": "after"}, follows=self.follows(**given))

    def test_waits_for_it(self) -> None:
        found = self.waits(delay=3 * 86_400 * SECOND, unless="replied")
        assert (found.reason, found.until) == ("after", None)
        assert (
            found.says == f"it waits for job {self.AFTER} to be sent, and then for 3 days, unless its mail is answered"
        )

    def test_waits_for_its_delay(self) -> None:
        found = self.waits(delay=90 * SECOND, check_at=LATER, unless="bounced replied")
        assert found.until == moment(LATER)
        assert (
            found.says
            == f"job {self.AFTER} was sent; this job follows 90 seconds later, unless its mail bounces or is answered"
        )

    def test_waits_until_its_thread_can_be_read(self) -> None:
        assert (
            "could not be read (rate_limit)" in self.waits(check_at=LATER, trouble="rate_limit", unless="replied").says
        )
        assert "encrypted with a key" in self.waits(check_at=LATER, trouble="encryption_key_missing").says
        assert self.waits(check_at=NOW, unless="replied").says.startswith(f"job {self.AFTER} was sent, and its thread")

    def test_and_a_person_holds_it(self) -> None:
        found = why(job={"next_at": HELD, "resume_at": HELD, "rule": "after"}, follows=self.follows())
        assert (found.reason, found.rule) == ("held", "by_hand")

    @pytest.mark.parametrize(
        ("rule", "state", "given", "says"),
        [
            ("unless_replied", "cancelled", {}, "was answered"),
            ("unless_bounced", "cancelled", {}, "bounced, was rejected or was marked as spam"),
            (
                "after_failed",
                "dead",
                {"state": "dead", "failed_by": "bad_request"},
                "was given up (bad_request); to try",
            ),
            ("after_failed", "dead", {"state": None}, "was not sent"),
            ("after_failed", "dead", {}, "the id of the message"),
            ("after_failed", "cancelled", {"state": "cancelled", "failed_by": "unless_replied"}, "was cancelled"),
        ],
    )
    def test_and_ended_because_of_it(self, rule: str, state: str, given: dict[str, Any], says: str) -> None:
        found = why(job={"state": state, "rule": rule}, follows=self.follows(**given))
        assert found.says.startswith("it was not sent, because")
        assert str(self.AFTER) in found.says
        assert says in found.says


class TestAJobInDoubt:
    @pytest.mark.parametrize("seen", [None, *(seen for seen in Seen if seen is not Seen.FOUND)])  # found, it is sent
    def test_says_what_is_missing_and_when_it_is_looked_for_next(self, seen: Seen | None) -> None:
        found = why(job={"state": "in_doubt", "seen": seen, "look_at": LATER, "rule": "no_answer"})
        assert (found.reason, found.until, found.rule) == ("in_doubt", moment(LATER), "no_answer")
        assert "until that is known it is not sent again" in found.says
        assert "sendq resolve" in found.says

    def test_is_not_looked_for_while_its_lane_is_closed(self) -> None:
        found = why(job={"state": "in_doubt", "look_at": LATER}, lane={"closed_at": NOW})
        assert found.until is None
        assert "closed" in found.says

    def test_is_not_looked_for_before_its_hold_ends(self) -> None:
        found = why(job={"state": "in_doubt", "look_at": NOW}, held=(hold(),))
        assert found.until == moment(LATER)
        assert "provider" in found.says

    def test_waits_for_a_ledger_that_lost_something_to_be_put_right(self) -> None:
        found = why(job={"state": "in_doubt", "look_at": NOW}, shut_at=NOW)
        assert "sendq recover" in found.says


def hold(scope: str = "provider", until: int = LATER, by: str = "policy") -> HoldFacts:
    return HoldFacts(scope, until, "throttled", by)


class TestAJobThatEnded:
    @pytest.mark.parametrize("state", ["sent", "dead", "cancelled", "expired"])
    def test_says_how(self, state: str) -> None:
        found = why(job={"state": state, "rule": "a rule"}, lane={"closed_at": NOW})
        assert (found.reason, found.state, found.rule) == (state, State(state), "a rule")
        assert found.until is None


class TestAJobThatWaits:
    def test_is_on_the_wire(self) -> None:
        assert why(job={"state": "sending"}).reason == "on_the_wire"

    def test_for_the_api_to_say_what_is_wrong_with_the_grant(self) -> None:
        found = why(lane={"closed_at": NOW, "closed_rule": "forbidden", "suspected": True})
        assert (found.reason, "asked" in found.says) == ("reauth", True)

    def test_for_approval_whatever_else_holds_it(self) -> None:
        waits = {"next_at": UNAPPROVED, "resume_at": NOW, "approve_by": LATER, "rule": "needs_approval"}
        found = why(job=waits, held=(hold("grant"),))
        assert (found.reason, found.rule, found.until) == ("unapproved", "needs_approval", None)
        assert "given up unless it is approved by" in found.says
        assert "held" not in found.says
        assert "it is held, too" in why(job=waits | {"next_at": HELD}).says
        assert why(job=waits | {"next_at": NOW, "resume_at": None, "approved_at": NOW}).reason == "due"

    def test_for_the_hold_of_its_tag_whatever_time_an_earlier_one_gave_it(self) -> None:
        put_off = {"next_at": LATER + 3_600 * SECOND, "rule": "tag_held"}
        found = why(job=put_off, tag_holds=(hold("tag a=b"),))
        assert (found.reason, found.until) == ("held", moment(LATER))
        over = why(job=put_off, tag_holds=(hold("tag a=b", until=NOW),))
        assert (over.reason, over.until) == ("held", None)
        assert "is over" in over.says
        later = why(job=put_off | {"next_at": LATER + SECOND, "due_at": LATER + SECOND}, tag_holds=(hold("tag a=b"),))
        assert (later.reason, later.until) == ("not_due", moment(LATER + SECOND))

    def test_for_its_repeat_which_no_hold_of_its_tag_delays(self) -> None:
        found = why(job={"next_at": NOW + SECOND, "doubt_at": NOW}, tag_holds=(hold("tag a=b"),))
        assert (found.reason, found.until) == ("retry", moment(NOW + SECOND))

    def test_for_its_due_time_when_a_hold_ends_before_that(self) -> None:
        found = why(job={"next_at": LATER + SECOND}, held=(hold("grant"),))
        assert (found.reason, found.until) == ("not_due", moment(LATER + SECOND))

    def test_for_the_grants_owner_to_sign_in_again(self) -> None:
        found = why(lane={"closed_at": NOW, "closed_rule": "grant expired"}, held=(hold("grant"),))
        assert (found.reason, found.rule) == ("reauth", "grant expired")

    @pytest.mark.parametrize("scope", ["application", "provider"])
    def test_because_more_than_its_lane_is_held(self, scope: str) -> None:
        found = why(held=(hold(scope),))
        assert (found.reason, found.until, found.rule, found.by) == ("held", moment(LATER), "throttled", "policy")
        assert scope in found.says

    def test_because_of_the_hold_that_ends_last(self) -> None:
        found = why(held=(hold("application", LATER), hold("provider", LATER + 1), hold("grant", LATER)))
        assert (found.until, "the provider is held" in found.says) == (moment(LATER + 1), True)

    def test_because_its_lane_is_held(self) -> None:
        found = why(held=(hold("grant", by="ana"),))
        assert (found.reason, found.until, found.by) == ("held", moment(LATER), "ana")

    def test_no_longer_for_a_hold_that_is_over(self) -> None:
        assert why(held=tuple(hold(scope, NOW) for scope in ("application", "provider", "grant"))).reason == "due"

    def test_for_its_due_time(self) -> None:
        found = why(job={"next_at": LATER})
        assert (found.reason, found.until) == ("not_due", moment(LATER))

    @pytest.mark.parametrize("before", [{"attempts": 1}, {"doubt_at": NOW}])
    def test_for_its_next_try(self, before: dict[str, int]) -> None:
        found = why(job={"next_at": LATER, "rule": "service_unavailable"} | before)
        assert (found.reason, found.until, found.rule) == ("retry", moment(LATER), "service_unavailable")

    def test_for_an_earlier_change_of_the_same_message(self) -> None:
        earlier = EarlierChange(UUID(int=7), "queued", LATER)
        found = why(before=earlier)
        assert (found.reason, found.until) == ("behind", moment(LATER))
        assert str(UUID(int=7)) in found.says

    def test_for_a_worker(self) -> None:
        assert why(workers=0).reason == "no_worker"

    def test_for_a_dispatcher(self) -> None:
        assert why(dispatcher_until=NOW).reason == "no_dispatcher"

    def test_for_the_dispatcher_to_pick_it_up(self) -> None:
        assert why(no_lane=True).reason == "new"
        assert why(lane={"next_at": None}).reason == "new"

    def test_for_the_dispatcher_to_pick_it_up_though_its_lane_waits_for_a_later_job(self) -> None:
        assert why(lane={"next_at": LATER}).reason == "new"

    def test_for_its_lanes_pace(self) -> None:
        found = why(lane={"ready_at": LATER, "next_at": LATER})
        assert (found.reason, found.until) == ("pace", moment(LATER))

    def test_for_its_lanes_pace_with_what_the_last_answers_stated(self) -> None:
        used = Pacer(PACES["google"])
        used.correct("send", 115, succeeded=True)
        found = why(lane={"ready_at": LATER, "next_at": LATER, "provider": "google", "used": used.text})
        assert found.says.endswith("6000 per 60 s); its last answers stated 115 units for a send")

    def test_because_another_job_of_its_grant_is_tried_first(self) -> None:
        found = why(job={"next_at": LATER, "rule": "job_refused"})
        assert (found.reason, found.rule, found.until) == ("set_aside", "job_refused", moment(LATER))

    def test_behind_others_of_its_lane(self) -> None:
        found = why(lane={"turn": "claimed"})
        assert (found.reason, found.ahead) == ("in_line", 3)

    @pytest.mark.parametrize(
        ("turn", "ahead", "says"),
        [
            ("claimed", 3, "its lane is being served; 3 other jobs are ahead of it"),
            ("claimed", 1, "its lane is being served; 1 other job is ahead of it"),
            ("claimed", 0, "its lane is being served; it is the next"),
            ("offered", 0, "its lane's turn is in the broker; it is the next"),
        ],
    )
    def test_behind_others_only_if_there_are_some(self, turn: str, ahead: int, says: str) -> None:
        assert why(lane={"turn": turn}, ahead=ahead).says == says

    @pytest.mark.parametrize("lane", [{"turn": "offered"}, {"turn": None}])
    def test_for_the_broker_since_when_it_fails(self, lane: dict[str, Any]) -> None:
        found = why(lane=lane, unpublished_since=NOW - 60 * SECOND, unclaimed_since=NOW - 90 * SECOND)
        assert (found.reason, found.says[-23:]) == ("broker", f"{moment(NOW - 60 * SECOND):%Y-%m-%d %H:%M:%S} UTC")
        assert why(lane=lane, unclaimed_since=NOW).reason == "unclaimed"
        assert why(lane=lane, unclaimed_since=NOW, failing_since=NOW, dispatcher_until=0).reason == "failing"
        assert why(lane={"turn": "claimed"}, unpublished_since=NOW, unclaimed_since=NOW).reason == "in_line"

    def test_for_a_leader_since_when_there_is_none(self) -> None:
        assert "within seconds" in why(dispatcher_until=NOW - SECOND).says
        found = why(dispatcher_until=NOW - 60 * SECOND)
        assert (found.reason, "since 20" in found.says) == ("no_dispatcher", True)

    def test_for_a_free_slot(self) -> None:
        found = why()
        assert (found.reason, found.ahead, found.until) == ("due", 3, None)


class TestAnAccountThatIsWarmedUp:
    def test_has_sent_what_it_may(self) -> None:
        stored = written(WarmUp(2, 1.5, 10), NOW)
        pacer = pacer_of(facts.lane(warm_up=stored), now=NOW)
        for _ in range(2):
            pacer.take("send", NOW)
        answer = why(lane={"warm_up": stored, "used": pacer.text, "ready_at": LATER})
        assert (answer.reason, answer.until) == ("pace", moment(LATER))
        assert answer.says == (
            "its account has sent the 2 messages that it may send within 24 hours while it is warmed up; there are "
            "more every day"
        )


class TestAJobOutsideItsWindow:
    """It is Thursday, 2026-05-28, 20:26 UTC."""

    OFFICE = "09:00-17:30 mon-fri Europe/Berlin 2026-05-29"
    MONDAY = 1_780_297_200 * SECOND

    def test_waits_for_the_opening(self) -> None:
        answer = why(job={"time_window": self.OFFICE})
        assert (answer.reason, answer.until) == ("window", moment(self.MONDAY))
        assert answer.says == (
            "it is outside its window (09:00-17:30 mon-fri Europe/Berlin, except on 1 holiday), and waits for "
            "09:00 Mon 2026-06-01 in Europe/Berlin"
        )

    def test_may_have_that_of_its_grant(self) -> None:
        assert why(lane={"time_window": self.OFFICE}).says.startswith("it is outside its grant's window")
        assert why(lane={"time_window": self.OFFICE}, job={"time_window": "00:00-24:00 mon-sun UTC"}).reason != "window"

    def test_that_must_be_repeated_does_not_wait(self) -> None:
        assert why(job={"time_window": self.OFFICE, "doubt_at": NOW}).reason != "window"

    def test_expires_before(self) -> None:
        answer = why(job={"time_window": self.OFFICE, "expires_at": LATER})
        assert answer.says.endswith("before that")
        assert answer.expires_at == moment(LATER)


class TestAskedByAClockThatIsBehind:
    def test_a_hold_that_the_workers_have_seen_end_is_over(self) -> None:
        assert why(held=(hold("grant"),), highest_at=LATER + 1).reason != "held"
        assert why(held=(hold("grant"),), highest_at=LATER - 1).reason == "held"


class TestALedgerThatLostSomething:
    def test_lets_nothing_go_and_says_what_to_do(self) -> None:
        found = why(shut_at=NOW, lane={"closed_at": NOW})
        assert found.reason == "shut"
        assert "sendq recover" in found.says


class TestTheAnswer:
    def test_is_plain_json(self) -> None:
        found = why(held=(hold(),)).as_json()
        assert found["reason"] == "held"
        assert found["until"] == moment(LATER).isoformat()
        assert found["state"] == "queued"


class TestAJobThatExpiresFirst:
    HOLD = HoldFacts("grant", LATER, "exchange_throttled", "policy")

    def test_is_said_to_with_the_time(self) -> None:
        found = why(job={"expires_at": NOW + SECOND}, held=(self.HOLD,))
        assert (found.reason, found.until, found.expires_at) == ("held", moment(LATER), moment(NOW + SECOND))
        assert found.says.endswith(f"; it expires at {moment(NOW + SECOND):%Y-%m-%d %H:%M:%S} UTC, before that")

    def test_is_said_to_where_no_end_is_known(self) -> None:
        found = why(job={"expires_at": LATER}, lane={"closed_at": NOW, "closed_rule": "grant_expired"})
        assert (found.reason, found.expires_at) == ("reauth", moment(LATER))
        assert "it expires at" in found.says

    def test_is_not_mentioned_if_it_starts_in_time(self) -> None:
        assert why(job={"expires_at": LATER + SECOND}, held=(self.HOLD,), ahead=0).expires_at is None
        assert why(job={"expires_at": LATER}, held=()).expires_at is None
        assert why(job={"state": "sent", "expires_at": NOW - SECOND}).expires_at is None
