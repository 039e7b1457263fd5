"""Jobs that are cancelled, before their call and while it is on the wire; and what a batch counts."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sendq import State
from sendq.clock import moment
from sendq.facts.turns import Claimed
from sendq.ledger.dispatching import rescue
from sendq.rules.states import Event
from tests.integration.ledger.test_record import bury, counted
from tests.support.ledger import Ledger, end, outcome


class TestACancelOnTheWire:
    def served(self, ledger: Ledger) -> tuple[UUID, Claimed]:
        job = ledger.send()
        claimed = ledger.serve()
        assert ledger.queue.cancel(str(job)) is State.SENDING
        return job, claimed

    def test_cancels_the_job_if_it_was_not_sent(self, ledger: Ledger) -> None:
        job, claimed = self.served(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        assert ledger.state(job) is State.CANCELLED
        assert ledger.lane().next_at is None

    def test_changes_nothing_if_it_was_sent(self, ledger: Ledger) -> None:
        job, claimed = self.served(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        assert ledger.state(job) is State.SENT

    def test_leaves_the_job_in_doubt_if_nobody_knows(self, ledger: Ledger) -> None:
        """Neither "cancelled", which may be untrue, nor sent once more, which nobody wants."""
        job, claimed = self.served(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        assert ledger.state(job) is State.IN_DOUBT
        assert ledger.offer() == []

    def test_leaves_the_job_in_doubt_if_an_earlier_answer_is_unknown_still(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        claimed = ledger.serve()
        ledger.queue.cancel(str(job))
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        assert ledger.state(job) is State.IN_DOUBT

    def test_leaves_the_job_in_doubt_if_its_worker_dies(self, ledger: Ledger) -> None:
        job, _ = self.served(ledger)
        bury(ledger)
        assert ledger.state(job) is State.IN_DOUBT
        assert ledger.offer() == []

    def test_cancels_a_modification_whatever_became_of_it(self, ledger: Ledger) -> None:
        unknown, died = ledger.modify("g1", ["m1", "m2"])
        ledger.clock.advance(1)
        claimed = ledger.serve()
        for job in (unknown, died):
            ledger.queue.cancel(str(job))
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"))
        bury(ledger)
        assert ledger.state(unknown) is ledger.state(died) is State.CANCELLED


class TestACancelOfAWaitingJob:
    def test_cancels_it(self, ledger: Ledger) -> None:
        job = ledger.send()
        assert ledger.queue.cancel(str(job)) is State.CANCELLED
        assert ledger.queue.cancel(str(job)) is State.CANCELLED
        row = ledger.job(job)
        assert (row.rule, row.finished_at) == ("cancelled", ledger.clock())

    def test_leaves_it_in_doubt_if_it_may_have_gone_out(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        assert ledger.queue.cancel(str(job)) is State.IN_DOUBT


class TestTheCountsOfABatch:
    def test_equal_its_jobs_states_at_every_moment(self, ledger: Ledger) -> None:
        expires_at = moment(ledger.clock()) + timedelta(hours=1)
        batch = UUID(ledger.queue.modify("g1", [f"m{n}" for n in range(8)], starred=True, expires_at=expires_at).id)

        def agree() -> None:
            view = ledger.queue.batch(str(batch))
            assert dict(view.counts) == counted(ledger, batch)
            assert view.waiting == 8 - sum(view.counts.values())

        agree()
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=5)
        claimed = ledger.serve()
        agree()
        sent, died, returned, cancelled, on_the_wire = claimed.jobs[:5]
        ledger.record(
            outcome(claimed, sent, Event.ACCEPT, sent="yes"),
            outcome(claimed, died, Event.GIVE_UP),
            outcome(claimed, returned, Event.RETURN),
        )
        agree()
        ledger.queue.cancel(str(cancelled.id))
        ledger.queue.cancel(str(claimed.jobs[6].id))
        agree()
        ledger.record(outcome(claimed, cancelled, Event.RETURN))
        agree()
        ledger.queue.cancel(str(on_the_wire.id))
        agree()
        bury(ledger)
        agree()
        assert ledger.queue.batch(str(batch)).counts == {State.SENT: 1, State.DEAD: 1, State.CANCELLED: 3}
        ledger.clock.advance(3_600)
        with ledger.writing() as connection:
            rescue.expire(connection, now=ledger.clock(), limit=100)
        agree()
        assert ledger.queue.batch(str(batch)).progress == 1
        # The worker of the first turn was alive after all.
        ledger.record(*(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in (died, returned, on_the_wire)))
        agree()
        assert ledger.queue.batch(str(batch)).counts == {State.SENT: 4, State.CANCELLED: 2, State.EXPIRED: 2}
