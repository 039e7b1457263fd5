"""What listeners of Celery's events are told of one attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from sendq.clock import SECOND
from sendq.errors import LedgerUnavailable
from sendq.facts.outcomes import Attempt, Hold, Outcome, Scope
from sendq.ids import new_id
from sendq.rules.states import Event
from tests.support.waiting import LIMIT_S
from worker.telemetry.flower_events import Deliveries, FlowerEvents, events_of

BEGUN = 1_780_000_000 * SECOND
HELD = Hold(scope=Scope.GRANT, rule="tired", by="policy", until=BEGUN)
CLOSED = Hold(scope=Scope.GRANT, rule="unauthorized", by="policy", until=None)


def outcome(event: Event, *, hold: Hold | None = None, status: int | None = 503) -> Outcome:
    attempt = Attempt(
        new_id(), new_id(), 0, None, BEGUN, BEGUN + SECOND // 4, status, "a_rule", "retry", "no", error="marked words"
    )
    return Outcome(
        id=new_id(), lane_id=new_id(), fence=1, job_id=new_id(), operation="modify", event=event, rule="a_rule",
        next_at=0, attempt=attempt, hold=hold, grant_id="a-grant", attempts=2,
    )  # fmt: skip


class TestTheEndOfAnAttempt:
    @pytest.mark.parametrize(
        ("event", "hold", "kind"),
        [
            (Event.ACCEPT, None, "task-succeeded"),
            (Event.RETURN, None, "task-retried"),
            (Event.RETURN, HELD, "task-held"),
            (Event.RETURN, CLOSED, "task-reauth"),
            (Event.GIVE_UP, None, "task-failed"),
            (Event.GIVE_UP, CLOSED, "task-failed"),  # its grant is gone, and its lane closed for good
            (Event.DOUBT, None, "task-in_doubt"),
            (Event.CANCEL, None, "task-revoked"),
            (Event.EXPIRE, HELD, "task-revoked"),
        ],
    )
    def test_is_called_by_what_came_of_the_job(self, event: Event, hold: Hold | None, kind: str) -> None:
        assert [name for name, _ in events_of(outcome(event, hold=hold))] == ["task-received", "task-started", kind]

    def test_has_the_rule_and_the_status_as_its_words(self) -> None:
        assert events_of(outcome(Event.GIVE_UP))[-1][1]["exception"] == "a_rule (503)"
        assert events_of(outcome(Event.RETURN, status=None))[-1][1]["exception"] == "a_rule"
        assert events_of(outcome(Event.ACCEPT, status=200))[-1][1]["result"] == "a_rule (200)"

    def test_says_what_became_of_the_mail_if_that_is_known(self) -> None:
        ended = events_of(outcome(Event.ACCEPT, status=202), delivery="bounced")[-1][1]
        assert (ended["result"], ended["exception"]) == ("a_rule (202), bounced", None)

    def test_takes_back_what_earlier_attempts_met_once_it_went_well(self) -> None:
        assert events_of(outcome(Event.ACCEPT))[-1][1]["exception"] is None

    def test_has_times_and_runtime_in_seconds(self) -> None:
        received, started, ended = (fields for _, fields in events_of(outcome(Event.ACCEPT)))
        assert received["timestamp"] == started["timestamp"] == 1_780_000_000
        assert (ended["timestamp"], ended["runtime"]) == (1_780_000_000.25, 0.25)


class TestWhatIsTold:
    def test_names_the_operation_the_job_the_grant_and_attempts_before_it(self) -> None:
        one = outcome(Event.ACCEPT)
        events = events_of(one)
        assert {fields["uuid"] for _, fields in events} == {str(one.job_id)}
        received = events[0][1]
        assert (received["name"], received["args"], received["retries"]) == ("sendq.modify", "()", 2)
        assert received["kwargs"] == "{'grant': 'a-grant'}"

    def test_quotes_nobody(self) -> None:
        assert "marked" not in str(events_of(outcome(Event.GIVE_UP)))


class Listener:
    """Keeps what it is sent."""

    wants_tasks = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


class TestManyOutcomes:
    def published(self, outcomes: Sequence[Outcome], deliveries: Deliveries) -> list[str]:
        listener = Listener()
        events = FlowerEvents(listener, in_flight=lambda: 0, deliveries=deliveries)
        events.recorded(outcomes)
        events.start()
        events.stop(LIMIT_S)
        return [fields["result"] for kind, fields in listener.sent if kind == "task-succeeded"]

    def test_are_looked_up_together_and_only_mail_that_was_accepted(self) -> None:
        sends = [outcome(Event.ACCEPT, status=200)._replace(operation="send") for _ in range(3)]
        others = [outcome(Event.ACCEPT, status=200), outcome(Event.GIVE_UP)._replace(operation="send")]
        asked: list[Sequence[UUID]] = []

        def deliveries(jobs: Sequence[UUID]) -> Mapping[UUID, str]:
            asked.append(jobs)
            return {jobs[0]: "bounced"}

        assert self.published([*sends, *others], deliveries) == ["a_rule (200), bounced", *["a_rule (200)"] * 3]
        assert asked == [[one.job_id for one in sends]]

    def test_are_published_without_that_if_the_ledger_is_unavailable(self) -> None:
        def deliveries(jobs: Sequence[UUID]) -> Mapping[UUID, str]:
            raise LedgerUnavailable("the ledger is away")

        one = outcome(Event.ACCEPT, status=200)._replace(operation="send")
        assert self.published([one], deliveries) == ["a_rule (200)"]
