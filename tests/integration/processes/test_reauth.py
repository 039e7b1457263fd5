"""Grants whose owners must sign in again, end to end: waiting jobs, suspicion, announcing once, and looking higher."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, event, func, select, update

from sendq import Send, State, clock
from sendq.clock import SECOND, Micros
from sendq.enqueueing.options import Options
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed
from sendq.ids import lane_id
from sendq.ledger import escalation, grants
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching.pairs import prove
from sendq.ledger.operators.holds import release_pair
from sendq.rules.lane_change import CHECK_FIRST
from sendq.rules.pace import pace_of
from sendq.rules.states import Event
from sendq.simulator import Fault, Request
from tests.support.ledger import Ledger, end, outcome
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

ESCALATE_HOLD_S = 3.0

EITHER = Fault.body(401, {"message": "Could not verify access credential.", "type": "invalid_request_error"})
FORBIDDEN = Fault.body(403, {"message": "Could not authenticate with the SMTP server", "type": "api_error"})
PAGE = Fault.body(403, b"<html><h1>403 Forbidden</h1></html>", name="page", content_type="text/html")
EMPTY = Fault.body(403, b"", name="empty")
DELETED = Fault.status(404, type="grant.not_found", message="No Grant found for this Grant ID")


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker that calls for people after a second; each test uses grants of its own."""
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory, latency=0.01) as system:
        system.start_worker(SENDQ_ANNOUNCE_AFTER_S="1", SENDQ_ESCALATE_HOLD_S=str(ESCALATE_HOLD_S))
        yield system


def lane(system: System, grant: str, application: str = "default") -> Row[Any]:
    with reading(system.engine) as connection:
        return connection.execute(select(schema.lane).where(schema.lane.c.id == lane_id(application, grant))).one()


def set_lane(system: System, grant: str, **values: Any) -> None:
    with writing(system.engine) as connection:
        table = schema.lane
        connection.execute(update(table).where(table.c.id == lane_id("default", grant)).values(**values))


def events(system: System, kind: str, *names: str) -> int:
    """How many events of a kind there were for these grants (or providers)."""
    table = schema.event.c
    named = table.grant_id.in_(names) | table.provider.in_(names)
    with reading(system.engine) as connection:
        return connection.execute(select(func.count()).where(table.kind == kind, named)).scalar_one()


def calls(system: System, grant: str) -> list[Request]:
    return [one for one in system.api.requests if one.grant == grant and one.operation == "send"]


def questions(system: System, grant: str) -> int:
    return sum(one.grant == grant and one.operation == "grant" for one in system.api.requests)


def is_certainly_closed(system: System, grant: str) -> bool:
    row = lane(system, grant)
    return row.closed_at is not None and not row.suspected


def is_announced(system: System, grant: str) -> bool:
    return events(system, "reauth_required", grant) > 0


def all_are(system: System, jobs: Sequence[str], state: State) -> bool:
    wanted = schema.job.c.id.in_([UUID(job) for job in jobs])
    with reading(system.engine) as connection:
        return set(connection.execute(select(schema.job.c.state).where(wanted)).scalars()) == {state.value}


def expire(system: System, jobs: Sequence[str]) -> None:
    """The time of these jobs is over."""
    with writing(system.engine) as connection:
        table = schema.job
        ids = [UUID(job) for job in jobs]
        connection.execute(update(table).where(table.c.id.in_(ids)).values(expires_at=clock.now()))


def at_once(requests: Sequence[Request]) -> int:
    """How many of these were on the wire at the same time."""
    moments = sorted([(one.done_at or one.at, -1) for one in requests] + [(one.at, 1) for one in requests])
    return max(itertools.accumulate(step for _, step in moments))


def was_called(system: System, grant: str, times: int) -> bool:
    return len(calls(system, grant)) == times


def ask_now(system: System, grant: str) -> None:
    """Have the API asked about a grant now, and wait until it was."""
    before = questions(system, grant)
    set_lane(system, grant, check_at=1)
    eventually(lambda: questions(system, grant) > before, "a question about the grant")


class TestJobsOfAClosedGrant:
    @pytest.mark.parametrize("word", ["webhook", "check"])
    def test_go_on_when_their_owners_have_signed_in(self, system: System, word: str) -> None:
        names = {f"{word}-{provider}-{n}": provider for n, provider in enumerate(["google", "ews"] * 2 + ["google"])}
        for grant, provider in names.items():
            system.api.grant(grant, provider=provider, status="invalid")
        jobs = {
            grant: [job.id for job in system.queue.send_many([Send(grant, mail(), Options(provider=provider))] * 100)]
            for grant, provider in names.items()
        }
        eventually(lambda: all(is_announced(system, grant) for grant in names), "the calls for their owners")
        assert all(len(calls(system, grant)) <= pace_of(names[grant]).width for grant in names)
        late = {grant: ids[50:52] for grant, ids in jobs.items()}
        expire(system, [job for ids in late.values() for job in ids])
        closed_calls = {grant: len(calls(system, grant)) for grant in names}
        for grant in names:
            system.api.grant(grant, status="valid")
            if word == "webhook":
                with writing(system.engine) as connection:
                    grants.reopen(connection, lane_id("default", grant), by="webhook", now=clock.now())
            else:
                set_lane(system, grant, check_at=1)
        for grant, provider in names.items():
            wanted = [job for job in jobs[grant] if job not in late[grant]]
            eventually(partial(all_are, system, wanted, State.SENT), "the waiting jobs sent")
            eventually(partial(all_are, system, late[grant], State.EXPIRED), "the late ones expired")
            assert {system.queue.job(job).rule for job in late[grant]} == {"expired"}
            made = calls(system, grant)[closed_calls[grant] :]
            started = [one.job for one in made]
            assert set(started) == set(wanted)
            assert len(started) == len(wanted)
            width = pace_of(provider).width
            assert all(abs(started.index(job) - place) < width for place, job in enumerate(wanted))
            assert at_once(made) <= width
            assert at_once(made[:2]) == 1  # the first alone: it shows whether the grant works again
            assert events(system, "reauth_required", grant) == 1
            assert events(system, "reopened", grant) == 1

    def test_are_asked_about_only_while_they_wait(self, system: System) -> None:
        system.api.grant("cancelled", status="invalid")
        job = system.queue.send("cancelled", mail())
        eventually(lambda: is_announced(system, "cancelled"), "the call for its owner")
        assert system.queue.cancel(job.id) is State.CANCELLED
        before = questions(system, "cancelled")
        set_lane(system, "cancelled", check_at=1)
        system.api.grant("waiting", status="invalid")
        system.queue.send("waiting", mail())
        eventually(lambda: is_announced(system, "waiting"), "several rounds of the checker")
        assert questions(system, "cancelled") == before


class TestASuspicion:
    def test_is_dropped_when_the_api_says_that_the_grant_is_valid(self, system: System) -> None:
        system.api.will(EITHER, grant="suspected", times=1)
        jobs = [job.id for job in system.queue.send_many([Send("suspected", mail())] * 3)]
        eventually(partial(all_are, system, jobs, State.SENT), "the jobs sent")
        assert questions(system, "suspected") == 1
        assert sum(one.status == 401 for one in calls(system, "suspected")) == 1
        assert events(system, "reauth_required", "suspected") == 0

    def test_is_looked_into_for_many_grants_at_once(self, system: System) -> None:
        names = [f"slow-{number}" for number in range(8)]
        for grant in names:
            system.api.will(EITHER, grant=grant, operation="send", times=1)
            system.api.will(Fault.slow(2), grant=grant, operation="grant", times=None)
        jobs = [job.id for job in system.queue.send_many([Send(grant, mail()) for grant in names])]
        eventually(partial(all_are, system, jobs, State.SENT), "the jobs sent")
        asked = [one for one in system.api.requests if one.grant in names and one.operation == "grant"]
        assert at_once(asked) > 1

    def test_is_announced_once_when_the_api_says_that_it_is_not(self, system: System) -> None:
        system.api.will(EITHER, grant="expired", operation="send", times=None, expires_grant=True)
        job = system.queue.send("expired", mail())
        eventually(lambda: is_announced(system, "expired"), "the call for its owner")
        for _ in range(2):
            ask_now(system, "expired")
        assert events(system, "reauth_required", "expired") == 1
        assert len(calls(system, "expired")) == 1
        assert system.queue.why(job.id).reason == "reauth"

    def test_is_believed_after_some_calls_whatever_the_api_says_and_announced_once(self, system: System) -> None:
        system.api.will(FORBIDDEN, grant="refused", operation="send", times=None)
        job = system.queue.send("refused", mail(), provider="imap")
        eventually(lambda: is_announced(system, "refused"), "the call for its owner")
        assert len(calls(system, "refused")) == grants.SUSPECTED_MOST + 1
        for more in (2, 3):  # the API still says that all is well: one call each time, and nobody is called again
            eventually(lambda: is_certainly_closed(system, "refused"), "the closed lane")
            ask_now(system, "refused")
            eventually(partial(was_called, system, "refused", grants.SUSPECTED_MOST + more), "one more call")
        eventually(lambda: is_certainly_closed(system, "refused"), "the closed lane")
        assert events(system, "reauth_required", "refused") == 1
        assert lane(system, "refused").check_at - clock.now() > CHECK_FIRST  # ever more rarely
        assert system.state(job.id) is State.QUEUED


class TestAJobThatIsRefusedForEverOnAValidGrant:
    def test_is_given_up_when_another_job_of_the_grant_succeeds(self, system: System) -> None:
        def gate(request: Request) -> Fault | None:
            return FORBIDDEN if request.grant == "one-bad" and request.job == bad else None

        bad = ""
        system.api.behaviour.gate = gate
        with writing(system.engine) as connection:
            queue = system.queue
            bad, *others = (queue.send("one-bad", mail(), provider="imap", session=connection).id for _ in range(21))
        eventually(partial(all_are, system, others, State.SENT), "the other jobs sent")
        eventually(lambda: system.state(bad) is State.DEAD, "the dead letter")
        job = system.queue.job(bad)
        assert (job.rule, {attempt.rule for attempt in job.trail}) == ("job_refused", {"forbidden"})
        assert questions(system, "one-bad") <= 2
        assert lane(system, "one-bad").closed_at is None
        assert events(system, "reauth_required", "one-bad") == 0
        assert any(bad in line and '"ended_without_call"' in line for line in system.workers[0].said().splitlines())


class TestAFirewallBeforeTheApi:
    @pytest.mark.parametrize("page", [PAGE, EMPTY], ids=["a page", "an empty body"])
    def test_holds_the_application_and_no_owner_is_called(self, system: System, page: Fault) -> None:
        """The sends meet words that may be about the grant, and the question about it meets the firewall."""
        names = [f"{page.name}-{number}" for number in range(3)]
        behind_it = True

        def gate(request: Request) -> Fault | None:
            if not behind_it or request.grant not in names:
                return None
            return EITHER if request.operation == "send" else page

        system.api.behaviour.gate = gate
        jobs = [system.queue.send(grant, mail(), provider="imap").id for grant in names]
        eventually(lambda: system.queue.why(jobs[0]).says == "the application is held", "the hold of the application")
        behind_it = False
        with writing(system.engine) as connection:
            release_pair(connection, "default", "*", by="anna", reason="mended", now=clock.now())
        eventually(partial(all_are, system, jobs, State.SENT), "the jobs sent")
        assert events(system, "reauth_required", *names) == 0
        assert all(lane(system, grant).closed_at is None for grant in names)


class TestADeletedGrant:
    @pytest.fixture(autouse=True)
    def another(self, system: System) -> None:
        """Another grant of the application, by which sendq sees that the API key is the right one."""
        job = system.queue.send("another", mail())
        eventually(lambda: system.state(job.id) is State.SENT, "another grant that works")

    def test_ends_its_jobs_and_says_why(self, system: System) -> None:
        system.api.will(DELETED, grant="deleted", times=None)
        jobs = [job.id for job in system.queue.send_many([Send("deleted", mail())] * 20)]
        eventually(partial(all_are, system, jobs, State.DEAD), "the dead letters")
        assert {system.queue.job(job).rule for job in jobs} == {"grant_not_found"}
        assert len(calls(system, "deleted")) <= pace_of("unknown").width
        later = system.queue.send("deleted", mail())
        eventually(lambda: system.state(later.id) is State.DEAD, "the end of a later one")
        assert system.queue.job(later.id).trail == ()
        assert events(system, "reauth_required", "deleted") == 0

    def test_is_found_out_by_asking(self, system: System) -> None:
        system.api.grant("vanishes", status="invalid")
        jobs = [job.id for job in system.queue.send_many([Send("vanishes", mail())] * 5)]
        eventually(lambda: is_announced(system, "vanishes"), "the call for its owner")
        system.api.will(DELETED, grant="vanishes", operation="grant", times=None)
        set_lane(system, "vanishes", check_at=1)
        eventually(partial(all_are, system, jobs, State.DEAD), "the dead letters")
        assert {system.queue.job(job).rule for job in jobs} == {"grant_not_found"}
        assert events(system, "grant_gone", "vanishes") == 1


class TestManyGrantsThatFailAlike:
    def test_are_the_applications_trouble_and_nobody_is_called(self, system: System) -> None:
        broken = True

        def gate(request: Request) -> Fault | None:
            trouble = broken and request.operation == "send" and (request.grant or "").startswith("alike")
            return FORBIDDEN if trouble else None

        system.api.behaviour.gate = gate
        system.prove(provider="microsoft")  # or there is one call at a time, and the first is announced before the last
        names = [f"alike-{number}" for number in range(12)]
        options = Options(provider="microsoft")
        jobs = [job.id for job in system.queue.send_many([Send(grant, mail(), options) for grant in names])]
        eventually(lambda: events(system, "escalated", "microsoft"), "the escalation")
        broken = False
        why = system.queue.why(jobs[0])
        assert (why.reason, why.rule, why.by) == ("held", "forbidden", "escalation")
        eventually(lambda: all(lane(system, grant).closed_at is None for grant in names), "every lane open")
        eventually(partial(all_are, system, jobs, State.SENT), "all jobs sent after the hold")
        assert events(system, "escalated", "microsoft") == 1
        assert events(system, "reauth_required", *names) == 0
        made = [one for one in system.api.requests if one.grant in names and one.operation == "send"]
        last_refused = max(one.at for one in made if one.status == 403)
        first_accepted = min(one.at for one in made if one.status == 200)
        # The hold begins with a round of the checker, up to a second after the last answer, and never before it.
        assert first_accepted - last_refused >= ESCALATE_HOLD_S
        assert sum('"escalated"' in line for line in system.workers[0].said().splitlines()) == 1

    def test_are_called_for_each_if_the_api_says_that_they_are_invalid(self, system: System) -> None:
        names = [f"invalid-{number}" for number in range(12)]
        for grant in names:
            system.api.grant(grant, provider="yahoo", status="invalid")
        options = Options(provider="yahoo")
        system.queue.send_many([Send(grant, mail(), options) for grant in names])
        eventually(lambda: events(system, "reauth_required", *names) == 12, "a call for each")
        assert events(system, "escalated", "yahoo") == 0


def refuse(ledger: Ledger, count: int, *, rule: str = "scopes_missing", first: int = 0) -> None:
    """So many grants of one provider are refused by one rule, now."""
    for number in range(first, first + count):
        ledger.send(f"g{number}", provider="google")
    refuse_all(ledger, ledger.claim(ledger.offer()), rule=rule)


def refuse_all(ledger: Ledger, turns: Sequence[Claimed], *, rule: str = "scopes_missing") -> None:
    for claimed in turns:
        hold = Hold(Scope.GRANT, rule, "policy", None)
        begun_at = claimed.lane.turn_at
        refused = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold, begun_at=begun_at)
        ledger.record(refused, ends=[end(claimed)])


def look_higher(ledger: Ledger, *, window: Micros = 300 * SECOND) -> list[escalation.Escalated]:
    now = ledger.clock()
    with ledger.writing() as connection:
        escalation.open_stragglers(connection, now=now)
    with ledger.writing() as connection:
        return escalation.escalate(
            connection, rules={"scopes_missing"}, since=now - window, number=10, held_until=now + 60 * SECOND, now=now
        )


def announce(ledger: Ledger) -> int:
    now = ledger.clock()
    with ledger.writing() as connection:
        return len(grants.announce_closed(connection, closed_before=now, now=now, limit=100))


class TestLookingHigher:
    def test_finds_ten_within_the_window_also_if_some_were_called_for(self, ledger: Ledger) -> None:
        refuse(ledger, 5)
        ledger.clock.advance(60)
        assert announce(ledger) == 5
        refuse(ledger, 5, first=5)
        (found,) = look_higher(ledger)
        assert (found.provider, found.rule, found.grants) == ("google", "scopes_missing", 10)

    def test_leaves_those_alone_that_failed_before_the_window(self, ledger: Ledger) -> None:
        refuse(ledger, 5)
        ledger.clock.advance(301)
        refuse(ledger, 5, first=5)
        assert look_higher(ledger) == []

    def test_looks_only_at_rules_that_may_be_the_applications_trouble(self, ledger: Ledger) -> None:
        refuse(ledger, 12, rule="authentication_failed")
        assert look_higher(ledger) == []

    def test_is_not_called_for_while_others_of_the_provider_succeed(self, ledger: Ledger) -> None:
        refuse(ledger, 12)
        ledger.clock.advance(1)
        ledger.send("works", provider="google")
        with ledger.writing() as connection:
            prove(connection, "default", "google", begun_at=ledger.clock(), now=ledger.clock())
        assert look_higher(ledger) == []

    def test_happens_once_and_who_is_refused_again_after_the_hold_is_called_for(self, ledger: Ledger) -> None:
        refuse(ledger, 12)
        assert len(look_higher(ledger)) == 1
        ledger.clock.advance(61)
        refuse_all(ledger, ledger.claim(ledger.offer()))
        assert look_higher(ledger) == []
        assert announce(ledger) == 12

    def test_takes_in_who_was_on_the_wire_at_that_moment(self, ledger: Ledger) -> None:
        ledger.send("late", provider="google")
        on_the_wire = ledger.claim(ledger.offer())
        refuse(ledger, 10)
        assert len(look_higher(ledger)) == 1
        ledger.clock.advance(1)
        refuse_all(ledger, on_the_wire)
        assert look_higher(ledger) == []
        assert ledger.lane("late").closed_at is None
        assert announce(ledger) == 0

    def test_locks_the_lanes_of_all_its_groups_in_the_order_of_their_ids(self, pg_ledger: Ledger) -> None:
        """Else it and a recorder could wait for each other."""
        for rule in ("scopes_missing", "forbidden"):
            names = [f"{rule}{number}" for number in range(10)]
            for name in names:
                pg_ledger.send(name, provider="google")
            refuse_all(pg_ledger, pg_ledger.claim(pg_ledger.offer()), rule=rule)
        now, locked = pg_ledger.clock(), list[str]()
        event.listen(pg_ledger.engine, "before_cursor_execute", lambda *given: locked.append(given[2]))
        with pg_ledger.writing() as connection:
            found = escalation.escalate(
                connection, rules={"scopes_missing", "forbidden"}, since=0, number=10, held_until=now + SECOND, now=now
            )
        assert {(one.rule, one.grants) for one in found} == {("scopes_missing", 10), ("forbidden", 10)}
        assert sum("sendq_lane" in one and "FOR UPDATE" in one for one in locked) == 1


class TestAGrantThatIsGone:
    def test_stays_so_though_an_older_answer_called_it_valid(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        lane, now = ledger.lane().id, ledger.clock()
        with ledger.writing() as connection:
            grants.close(connection, lane, rule="expired", by="webhook", now=now)
            grants.found_gone(connection, lane, rule="grant_not_found", by="webhook", now=now)
            grants.found_valid(connection, lane, now=now)
        assert (ledger.lane().gone, ledger.lane().closed_rule) == (True, "grant_not_found")


class TestTwoAnswersOfOneMoment:
    def test_leave_a_grant_gone_that_one_of_them_found_gone(self, ledger: Ledger) -> None:
        for _ in range(2):
            ledger.send("g1", provider="microsoft")
        claimed = ledger.serve()
        gone = Hold(Scope.GRANT, "grant_not_found", "policy", None, gone=True)
        suspected = Hold(Scope.GRANT, "unauthorized", "policy", None, suspected=True)
        at = ledger.clock()
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.GIVE_UP, hold=gone, begun_at=at),
            outcome(claimed, claimed.jobs[1], Event.RETURN, hold=suspected, begun_at=at),
        )
        lane = ledger.lane()
        assert (lane.gone, lane.suspected, lane.closed_rule) == (True, False, gone.rule)
