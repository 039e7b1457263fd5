"""Which recorded outcomes are reported to Sentry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from sendq.facts.outcomes import Hold, Outcome, Scope
from sendq.facts.turns import Recorded
from sendq.ids import new_id
from sendq.rules.states import Event
from tasks.policy.table import POLICY
from worker.telemetry.alerts import Alerts


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.fingerprints: list[list[str]] = []

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            self.fingerprints.append(event["fingerprint"])


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(dsn="https://key@sentry.example.com/1", transport=kept, default_integrations=False)
        yield kept
        sentry_sdk.get_client().close()
        sentry_sdk.init(default_integrations=False)


def outcome(rule: str, hold: Hold | None = None, event: Event = Event.RETURN) -> Outcome:
    return Outcome(new_id(), new_id(), 1, new_id(), "send", event, rule, 0, hold=hold)


class TestAHoldOfAGrant:
    def test_is_reported_if_a_person_should_know(self, kept: Kept) -> None:
        alerts = Alerts(POLICY, monotonic=lambda: 0.0)
        for rule in ("sending_paused", "account_throttled", "sending_paused"):
            alerts.recorded([outcome(rule, Hold(Scope.GRANT, rule, "policy", 1))], Recorded())
        assert kept.fingerprints == [["sendq", "hold", "sending_paused"]]

    def test_above_the_grant_is_reported_as_an_incident_alone(self, kept: Kept) -> None:
        alerts = Alerts(POLICY, monotonic=lambda: 0.0)
        first, second = (outcome("api_key", Hold(Scope.APPLICATION, "api_key", "policy", 1)) for _ in range(2))
        alerts.recorded([first, second], Recorded(incidents=[first]))
        assert kept.fingerprints == [["sendq", "hold", "api_key"]]


class TestAJobThatTheSuccessOfAnotherEnded:
    def test_is_reported_as_a_dead_letter(self, kept: Kept) -> None:
        alerts = Alerts(POLICY, monotonic=lambda: 0.0)
        alerts.recorded([outcome("job_refused", event=Event.GIVE_UP)], Recorded())
        assert kept.fingerprints == [["sendq", "dead_letter", "job_refused"]]
