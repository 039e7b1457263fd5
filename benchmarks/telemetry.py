"""The worker's CPU per recorded outcome for logs, metrics, Flower events and Sentry.

    ./dev bench telemetry --json

Each of them gets the same committed group repeatedly, in this process and without servers; the result is the median of
several rounds. For Flower it is the cost in the recorder's thread (publishing has its own thread).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from sendq.clock import SECOND, now
from sendq.facts.outcomes import Attempt, Outcome
from sendq.facts.turns import Recorded
from sendq.ids import new_id
from sendq.rules.states import Event
from settings import Settings
from settings.logs import start_logs
from tasks.policy.table import POLICY
from worker.telemetry import journal, metrics
from worker.telemetry.alerts import Alerts
from worker.telemetry.flower_events import FlowerEvents
from worker.telemetry.traces import Traces

GROUP, ROUNDS, REPEATS = 50, 9, 200


class Listening:
    """A stand-in for Celery's event dispatcher."""

    def __init__(self, wants_tasks: bool) -> None:
        self.wants_tasks = wants_tasks


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="./dev bench telemetry", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    result = measure()
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name:<40} {value:6.2f} µs per attempt" for name, value in result.items()))
    return 0


def measure() -> dict[str, float]:
    """Microseconds per attempt, by listener."""
    start_logs(Settings.load({}))
    alerts, traces = Alerts(POLICY), Traces(0.0)
    outcomes = [accepted() for _ in range(GROUP)]

    def write() -> None:
        for outcome in outcomes:
            journal.recorded(outcome)

    def report() -> None:
        alerts.recorded(outcomes, Recorded())
        traces.recorded(outcomes)

    return {
        "log (INFO)": _microseconds(write),
        "metrics": _microseconds(lambda: metrics.recorded(outcomes)),
        "Flower, events off": _microseconds(lambda: flower_events(listening=False).recorded(outcomes)),
        "Flower, events on": _microseconds(lambda: flower_events(listening=True).recorded(outcomes)),
        "Sentry, no DSN: alerts and traces": _microseconds(report),
    }


def flower_events(*, listening: bool) -> FlowerEvents:
    """A new instance whose thread is not started."""
    return FlowerEvents(Listening(listening), in_flight=lambda: 0, deliveries=lambda jobs: {})


def _microseconds(act: Callable[[], object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REPEATS):
            act()
        rounds.append((time.process_time() - began) / (REPEATS * GROUP) * 1e6)
    return round(statistics.median(rounds), 2)


def accepted() -> Outcome:
    """A send that the API accepted."""
    begun = now()
    attempt = Attempt(
        new_id(), new_id(), 0, None, begun, begun + SECOND // 5, 200, "accepted", None, "yes", request_id="r"
    )  # fmt: skip
    return Outcome(
        id=new_id(), lane_id=new_id(), fence=1, job_id=new_id(), operation="send", event=Event.ACCEPT, rule="accepted",
        next_at=begun, attempt=attempt, sent="yes", application="default", provider="google", grant_id="grant",
        wanted_at=begun - SECOND,
    )  # fmt: skip
