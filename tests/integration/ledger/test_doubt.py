"""Jobs in doubt in the ledger: taken up once, looked for, and how they end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from sendq import InvalidJob, Message, Send
from sendq.clock import SECOND, Micros, moment
from sendq.enqueueing.expiry import NEVER
from sendq.enqueueing.options import Options
from sendq.ids import lane_id
from sendq.ledger import doubt
from sendq.ledger.db import schema
from sendq.ledger.doubt import Ending, Wanted
from sendq.ledger.operators import resolve as resolving
from sendq.ledger.operators.resolve import DoubtPart, DoubtSelection
from sendq.ledger.reading.filters import JobFilter, LaneFilter
from sendq.rules.by_hand import Answer, ResendRefusal, RetryRefusal
from sendq.rules.expiry import EXPIRY
from sendq.rules.preflight import DEATHS_TOLERATED
from sendq.rules.reconcile import LOOKS_LEAST, ROUNDING, Choice, Delays, Look, Seen, first_look
from sendq.rules.rule_ids import POISON
from sendq.rules.states import Event, State
from tests.support.ledger import MESSAGE, Ledger, end, outcome

HOUR: Micros = 3600 * SECOND
DELAYS = Delays(settle=900 * SECOND, look_for=6 * HOUR)


def in_doubt(ledger: Ledger, grant: str = "g1", **options: Any) -> UUID:
    """A send whose call was made and whose outcome nobody knows."""
    job = ledger.send(grant, **options)
    claimed = ledger.serve()
    (mine,) = [one for one in claimed.jobs if one.id == job]
    others = [outcome(claimed, one, Event.RETURN, called=False) for one in claimed.jobs if one.id != job]
    unknown = outcome(claimed, mine, Event.DOUBT, sent="maybe", begun_at=ledger.clock(), rule="no_answer")
    ledger.record(*others, unknown, ends=[end(claimed)])
    assert ledger.state(job) is State.IN_DOUBT
    return job


def sent(ledger: Ledger, grant: str = "g1") -> UUID:
    job = ledger.send(grant)
    claimed = ledger.serve()
    ledger.record(
        outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", begun_at=ledger.clock()), ends=[end(claimed)]
    )
    return job


def take_up(ledger: Ledger, limit: int = 100) -> list[UUID]:
    with ledger.writing() as connection:
        return [row.id for row in doubt.take_up(connection, DELAYS, now=ledger.clock(), limit=limit)]


def due(ledger: Ledger, *, limit: int = 10, busy: set[UUID] | None = None) -> list[Wanted]:
    with ledger.writing() as connection:
        return doubt.due(connection, now=ledger.clock(), limit=limit, busy=busy or set())


def settle(ledger: Ledger, job: UUID, event: Event, **given: Any) -> int:
    with ledger.writing() as connection:
        ending = Ending(event, given.pop("rule", "not_in_mailbox"), **given)
        return len(doubt.settle(connection, {job: ending}, by="reconcile", now=ledger.clock()))


def resolve(ledger: Ledger, answer: Answer, which: DoubtSelection | None = None, **given: Any) -> DoubtPart:
    options: dict[str, Any] = {"by": "anna", "reason": "she asked", "now": ledger.clock()} | given
    with ledger.writing() as connection:
        return resolving.resolve(connection, which or DoubtSelection(), answer, **options)


class TestADoubt:
    def test_is_taken_up_once_with_its_first_look(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        assert take_up(ledger) == [job]
        row = ledger.job(job)
        assert row.look_at == first_look(row, DELAYS, now=ledger.clock())
        assert take_up(ledger) == []

    def test_is_taken_up_whatever_put_the_job_there(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.absorb()
        ledger.set_job(job, key_at=ledger.clock(), doubt_at=ledger.clock())
        ledger.queue.cancel(str(job))
        assert take_up(ledger) == [job]
        assert ledger.job(job).cancel_at == ledger.clock()

    def test_is_taken_up_anew_after_it_ended_and_came_back(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        take_up(ledger)
        settle(ledger, job, Event.RETURN)
        ledger.set_job(job, state="in_doubt", doubt_at=ledger.clock())
        assert take_up(ledger) == [job]
        assert (ledger.job(job).looks, ledger.job(job).misses) == (0, 0)


class TestALookThatIsDue:
    def later(self, ledger: Ledger) -> None:
        take_up(ledger)
        ledger.clock.advance(2 * 3600)

    def test_is_given_to_one_alone(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        assert due(ledger) == []
        self.later(ledger)
        (wanted,) = due(ledger)
        assert (wanted.id, wanted.job.grant_id, wanted.job.application) == (job, "g1", "default")
        assert due(ledger) == []
        ledger.clock.advance(doubt.BEGUN_FOR / SECOND)
        assert [one.id for one in due(ledger)] == [job]

    def test_knows_since_when_it_may_have_gone_out(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        first = ledger.clock()
        ledger.set_job(job, doubt_at=first + 600 * SECOND)
        self.later(ledger)
        assert due(ledger)[0].first_at == first

    def test_is_one_for_each_lane_and_none_for_one_that_is_asked_already(self, ledger: Ledger) -> None:
        for grant in ("a", "a", "b", "c"):
            in_doubt(ledger, grant)
        self.later(ledger)
        busy = {lane_id("default", "c")}
        assert sorted(one.job.grant_id for one in due(ledger, busy=busy)) == ["a", "b"]

    @pytest.mark.parametrize("held", ["lane", "closed", "provider", "application"])
    def test_waits_while_nothing_may_be_asked(self, ledger: Ledger, held: str) -> None:
        in_doubt(ledger)
        self.later(ledger)
        until = ledger.clock() + 60 * SECOND
        if held == "lane":
            ledger.set_lane(held_until=until)
        elif held == "closed":
            ledger.set_lane(closed_at=ledger.clock(), closed_rule="unauthorized")
        else:
            provider = "*" if held == "application" else "unknown"
            with ledger.writing() as connection:
                table = schema.pair
                if provider == "*":
                    row = {"application": "default", "provider": "*", "held_until": until}
                    connection.execute(table.insert().values(row))
                else:
                    connection.execute(table.update().values(held_until=until))
        assert due(ledger) == []
        if held != "closed":
            ledger.clock.advance(60)
            assert len(due(ledger)) == 1

    def test_is_put_off_for_the_whole_lane_that_refused_a_question(self, ledger: Ledger) -> None:
        for grant in ("a", "a", "b"):
            in_doubt(ledger, grant)
        self.later(ledger)
        with ledger.writing() as connection:
            doubt.rest(connection, lane_id("default", "a"), until=ledger.clock() + 60 * SECOND)
        assert [one.job.grant_id for one in due(ledger)] == ["b"]


class TestAnotherJobThatWasAccepted:
    def was_later(self, ledger: Ledger, wanted: Wanted, *jobs: UUID) -> bool:
        with ledger.writing() as connection:
            return doubt.was_later(connection, wanted, Look(True, later=[str(job) for job in jobs]))

    def wanted(self, ledger: Ledger) -> Wanted:
        job = in_doubt(ledger)
        take_up(ledger)
        return Wanted(ledger.job(job), ledger.clock())

    def test_later_proves_the_index_alive(self, ledger: Ledger) -> None:
        wanted = self.wanted(ledger)
        ledger.clock.advance(151)
        assert self.was_later(ledger, wanted, sent(ledger))

    def test_while_its_own_request_may_have_run_still_proves_nothing(self, ledger: Ledger) -> None:
        wanted = self.wanted(ledger)
        ledger.clock.advance(150)
        assert not self.was_later(ledger, wanted, sent(ledger))

    def test_through_another_grant_proves_nothing(self, ledger: Ledger) -> None:
        wanted = self.wanted(ledger)
        ledger.clock.advance(1_000)
        assert not self.was_later(ledger, wanted, sent(ledger, "g2"))

    def test_that_the_ledger_does_not_know_as_sent_proves_nothing(self, ledger: Ledger) -> None:
        wanted = self.wanted(ledger)
        ledger.clock.advance(1_000)
        assert not self.was_later(ledger, wanted, in_doubt(ledger), UUID(int=7))
        assert not self.was_later(ledger, wanted)


class TestALookThatSettledNothing:
    def noted(self, ledger: Ledger, seen: Seen, *, counts: bool = True) -> Any:
        job = in_doubt(ledger)
        take_up(ledger)
        wanted = Wanted(ledger.job(job), 0)
        with ledger.writing() as connection:
            doubt.note(connection, wanted, seen, counts=counts, next_at=ledger.clock() + 7)
        return ledger.job(job)

    @pytest.mark.parametrize(
        ("seen", "counts", "looks", "misses"),
        [
            (Seen.EARLY, False, 0, 0),
            (Seen.SILENT, True, 1, 0),
            (Seen.ABSENT, True, 1, 1),
            (Seen.REFUSED, True, 0, 0),
        ],
    )
    def test_is_counted_for_what_it_is(self, ledger: Ledger, seen: Seen, counts: bool, looks: int, misses: int) -> None:
        row = self.noted(ledger, seen, counts=counts)
        assert (row.looks, row.misses, row.seen, row.look_at) == (looks, misses, seen, ledger.clock() + 7)

    def test_changes_nothing_that_somebody_settled_meanwhile(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        take_up(ledger)
        wanted = Wanted(ledger.job(job), 0)
        settle(ledger, job, Event.RETURN)
        before = ledger.job(job)
        with ledger.writing() as connection:
            doubt.note(connection, wanted, Seen.ABSENT, counts=True, next_at=1)
        assert ledger.job(job) == before


class TestAnEnding:
    def test_found_is_sent_with_the_id_that_it_has(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        take_up(ledger)
        row = ledger.job(job)
        attempt = doubt.trail(row, "found", sent="yes", begun_at=ledger.clock(), now=ledger.clock(), status=200)
        assert settle(ledger, job, Event.ACCEPT, rule="found", message_id="m1", attempt=attempt) == 1
        row = ledger.job(job)
        assert (row.state, row.message_id, row.rule, row.finished_at) == ("sent", "m1", "found", ledger.clock())
        assert [one.rule for one in ledger.queue.job(str(job)).trail] == ["no_answer", "found"]
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.job_id, event.rule) == ("resolved", "reconcile", job, "found")

    def test_absent_goes_again_under_a_new_key(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        take_up(ledger)
        ledger.clock.advance(2 * 3600)
        settle(ledger, job, Event.RETURN)
        row = ledger.job(job)
        assert (row.state, row.generation, row.key_at, row.doubt_at, row.attempts) == ("queued", 1, None, None, 0)
        claimed = ledger.serve()
        assert [(one.id, one.generation) for one in claimed.jobs] == [(job, 1)]
        ledger.finish(claimed)
        assert ledger.state(job) is State.SENT

    def test_of_a_refusal_leaves_nothing_of_it_behind(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        ledger.set_job(job, refused_at=ledger.clock())
        take_up(ledger)
        assert ledger.job(job).look_at == ledger.clock() + DELAYS.settle + ROUNDING
        settle(ledger, job, Event.RETURN)
        assert (ledger.job(job).generation, ledger.job(job).refused_at) == (1, None)

    def test_looks_around_the_requests_of_its_own_generation_alone(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        take_up(ledger)
        ledger.clock.advance(2 * 3600)
        settle(ledger, job, Event.RETURN)
        claimed = ledger.serve()
        begun_at = ledger.clock()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe", begun_at=begun_at))
        take_up(ledger)
        ledger.clock.advance(2 * 3600)
        assert [one.first_at for one in due(ledger)] == [begun_at]

    def test_absent_is_a_dead_letter_if_it_killed_its_process(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        ledger.set_job(job, rule=POISON, deaths=DEATHS_TOLERATED + 1)
        ledger.clock.advance(2 * 3600)
        settle(ledger, job, Event.RETURN)
        assert ledger.serve().jobs == []
        assert (ledger.state(job), ledger.job(job).rule) == (State.DEAD, POISON)

    @pytest.mark.parametrize(
        ("event", "state"),
        [(Event.EXPIRE, State.EXPIRED), (Event.CANCEL, State.CANCELLED), (Event.GIVE_UP, State.DEAD)],
    )
    def test_absent_and_not_to_be_sent_any_more_ends(self, ledger: Ledger, event: Event, state: State) -> None:
        job = in_doubt(ledger)
        settle(ledger, job, event)
        assert (ledger.state(job), ledger.job(job).finished_at) == (state, ledger.clock())

    def test_comes_once(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        assert settle(ledger, job, Event.ACCEPT) == 1
        assert settle(ledger, job, Event.RETURN) == 0
        assert ledger.state(job) is State.SENT

    def test_of_another_generation_is_none(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        with ledger.writing() as connection:
            ending = {job: Ending(Event.RETURN, "not_in_mailbox")}
            assert doubt.settle(connection, ending, by="x", now=ledger.clock(), generation=1) == []
        assert ledger.state(job) is State.IN_DOUBT

    def test_is_overtaken_by_a_fact_that_comes_late(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        mine = claimed.jobs[0]
        ledger.record(outcome(claimed, mine, Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        settle(ledger, job, Event.RETURN)
        again = ledger.serve()
        ledger.finish(again)
        late = ledger.record(outcome(claimed, mine, Event.ACCEPT, sent="yes"))
        assert [one.job_id for one in late.sent_twice] == [job]  # and somebody is told


class TestWhatHappensByItself:
    def ripe(self, ledger: Ledger, choice: Choice) -> list[UUID]:
        with ledger.writing() as connection:
            now = ledger.clock()
            return [row.id for row in doubt.ripe(connection, choice, before=now, now=now, limit=100)]

    def doubtful(self, ledger: Ledger, **values: Any) -> UUID:
        job = in_doubt(ledger, in_doubt=values.pop("choice", None), expires_at=NEVER)
        take_up(ledger)
        ledger.set_job(job, looks=LOOKS_LEAST, **values)
        ledger.clock.advance(1)
        return job

    @pytest.mark.parametrize("default", list(Choice))
    @pytest.mark.parametrize("choice", [None, *Choice])
    def test_is_the_jobs_own_choice_or_else_the_workers(
        self, ledger: Ledger, default: Choice, choice: Choice | None
    ) -> None:
        job = self.doubtful(ledger, choice=choice and choice.value)
        assert self.ripe(ledger, default) == ([] if (choice or default) is Choice.WAIT else [job])

    @pytest.mark.parametrize("values", [{"cancel_at": 1}, {"expires_at": 1}])
    def test_is_not_to_send_what_nobody_wants_any_more(self, ledger: Ledger, values: dict[str, Any]) -> None:
        job = self.doubtful(ledger, **values)
        assert self.ripe(ledger, Choice.RESEND) == []
        assert self.ripe(ledger, Choice.DEAD) == [job]
        ledger.set_job(job, due_at=ledger.clock() + HOUR)
        assert self.ripe(ledger, Choice.DEAD) == []

    def test_needs_looks(self, ledger: Ledger) -> None:
        job = self.doubtful(ledger)
        ledger.set_job(job, looks=LOOKS_LEAST - 1)
        assert self.ripe(ledger, Choice.DEAD) == []
        ledger.set_lane(closed_at=1, gone=True)  # nobody can look
        assert self.ripe(ledger, Choice.DEAD) == [job]


class TestTheChoiceOfAJob:
    def test_is_kept_with_it(self, ledger: Ledger) -> None:
        one = ledger.send(in_doubt="dead")
        (other,) = ledger.queue.send_many([Send("g1", MESSAGE, Options(in_doubt="resend"))])
        assert ledger.job(one).in_doubt == "dead"
        assert ledger.job(UUID(other.id)).in_doubt == "resend"
        assert ledger.job(ledger.send()).in_doubt is None

    def test_is_one_of_three(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob) as wrong:
            ledger.queue.send("g1", Message(to=["a@example.com"]), in_doubt="maybe")
        assert [problem.field for problem in wrong.value.problems] == ["in_doubt"]


class TestResolving:
    def test_as_sent_keeps_who_and_why_and_which_message(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        resolve(ledger, Answer.SENT, message_id="m7")
        assert (ledger.state(job), ledger.job(job).message_id) == (State.SENT, "m7")
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason, event.at, event.rule) == (
            "resolved", "anna", "she asked", ledger.clock(), "resolved_sent",
        )  # fmt: skip

    def test_as_dead_is_a_dead_letter_that_retry_refuses(self, ledger: Ledger) -> None:
        from sendq.ledger.operators import retry

        job = in_doubt(ledger)
        resolve(ledger, Answer.DEAD)
        assert ledger.state(job) is State.DEAD
        with ledger.writing() as connection:
            assert retry.find(connection, retry.DeadLetterSelection(), after=None).refused == {job: RetryRefusal.MAYBE}

    def test_to_be_sent_again_goes_under_a_new_key_and_gets_time(self, ledger: Ledger) -> None:
        job = in_doubt(ledger, expires_at=moment(ledger.clock()) + timedelta(hours=1))
        ledger.clock.advance(2 * 3600)
        resolve(ledger, Answer.RESEND)
        row = ledger.job(job)
        assert (row.state, row.generation, row.expires_at) == ("queued", 1, ledger.clock() + EXPIRY)
        ledger.finish(ledger.serve())
        assert ledger.state(job) is State.SENT

    def test_to_be_sent_again_is_tried_though_it_killed_its_process(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        ledger.set_job(job, rule=POISON, deaths=DEATHS_TOLERATED + 1)
        resolve(ledger, Answer.RESEND)
        assert ledger.job(job).deaths == 0
        ledger.finish(ledger.serve())
        assert ledger.state(job) is State.SENT

    def test_sends_nothing_again_that_was_cancelled_or_whose_grant_is_gone(self, ledger: Ledger) -> None:
        cancelled, gone = in_doubt(ledger, "a"), in_doubt(ledger, "b")
        ledger.queue.cancel(str(cancelled))
        ledger.set_lane("b", closed_at=1, gone=True)
        assert resolve(ledger, Answer.RESEND).refused == {cancelled: ResendRefusal.CANCELLED, gone: ResendRefusal.GONE}
        assert len(resolve(ledger, Answer.DEAD).ready) == 2

    def test_touches_those_alone_that_fit(self, ledger: Ledger) -> None:
        one, other = in_doubt(ledger, "a"), in_doubt(ledger, "b")
        waits = ledger.send("a")
        of_a = JobFilter(LaneFilter("default", None, "a"), rule="no_answer")
        resolve(ledger, Answer.DEAD, DoubtSelection(which=of_a))
        assert [ledger.state(job) for job in (one, other, waits)] == [State.DEAD, State.IN_DOUBT, State.QUEUED]
        resolve(ledger, Answer.DEAD, DoubtSelection(jobs=[other, waits]))
        assert [ledger.state(job) for job in (other, waits)] == [State.DEAD, State.QUEUED]

    def test_of_many_goes_on_part_by_part(self, ledger: Ledger) -> None:
        jobs = [in_doubt(ledger) for _ in range(5)]
        found = resolve(ledger, Answer.DEAD, limit=2)
        parts = [len(found.ready)]
        while found.after is not None:
            found = resolve(ledger, Answer.DEAD, limit=2, after=found.after)
            parts.append(len(found.ready))
        assert parts == [2, 2, 1]
        assert {ledger.state(job) for job in jobs} == {State.DEAD}


class TestCancelling:
    def test_a_job_in_doubt_keeps_it_from_being_sent_again(self, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        assert ledger.queue.cancel(str(job)) is State.IN_DOUBT
        assert ledger.job(job).cancel_at == ledger.clock()


class TestTheIndexes:
    def test_serve_the_questions_of_every_round(self, ledger: Ledger) -> None:
        """SQLite tells its plan without data; a scan of all jobs each second would be one of millions."""
        if ledger.engine.dialect.name != "sqlite":
            pytest.skip("one plan is enough, and PostgreSQL scans small tables")
        table = schema.job.c
        wanted = select(table.id).where(table.state == doubt.IN_DOUBT, table.look_at.is_(None)).limit(5)
        text = str(wanted.compile(ledger.engine, compile_kwargs={"literal_binds": True}))
        with ledger.engine.connect() as connection:
            plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
        assert "sendq_job_look_idx" in plan
