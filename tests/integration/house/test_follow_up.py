"""The follow-up under examples/: three steps, days apart, that stop when they are answered."""

from __future__ import annotations

from uuid import UUID

import pytest

from examples.follow_up import sequence
from sendq import Job, State
from tests.support.following import carry_out, lead
from tests.support.ledger import Ledger

DAY = 86_400


def begin(ledger: Ledger) -> list[Job]:
    return sequence.begin(ledger.queue, "g1", 42, "leyah@example.com", "Leyah", sequence.STEPS)


class TestTheFollowUp:
    def test_is_sent_to_its_end_once(self, ledger: Ledger) -> None:
        jobs = begin(ledger)
        assert [job.id for job in begin(ledger)] == [job.id for job in jobs]
        for step, days in enumerate((0, 3, 7)):
            assert "it waits for job" in sequence.report(ledger.queue, jobs)[-1] or step == 2
            lead(ledger)
            ledger.clock.advance(days * DAY)
            lead(ledger)
            assert carry_out(ledger) == [UUID(jobs[step].id)]
        assert {ledger.queue.job(job.id).state for job in jobs} == {State.SENT}

    def test_stops_when_it_is_answered(self, ledger: Ledger) -> None:
        jobs = begin(ledger)
        carry_out(ledger)
        lead(ledger)
        assert "3 days later, unless its mail" in sequence.report(ledger.queue, jobs)[1]
        ledger.clock.advance(3 * DAY)
        lead(ledger, replied=lambda job: True)
        ledger.clock.advance(30 * DAY)
        lead(ledger)
        assert carry_out(ledger) == []
        said = sequence.report(ledger.queue, jobs)
        assert said[1].startswith("step 2: cancelled: it was not sent, because the mail of job")
        assert said[2].startswith("step 3: cancelled: it was not sent, because job")
        assert said[2].endswith("was cancelled (unless_replied)")

    def test_is_a_program(
        self, ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FOLLOW_UP_LEDGER", ledger_url)
        monkeypatch.setenv("FOLLOW_UP_GRANT", "g1")
        monkeypatch.setattr("sys.argv", ["sequence", "42", "leyah@example.com", "Leyah"])
        sequence.main()
        assert "to be sent, and then for 3 days, unless its mail bounces or is answered" in capsys.readouterr().out
