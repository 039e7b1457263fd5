"""What Sentry is told: one issue for each rule, ids and nothing else. The envelopes of a real worker are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sendq import Message, State
from sendq.simulator import Fault
from tests.support.posted import Posted
from tests.support.servers import PgServer
from tests.support.system import API_KEY, System, mail, running
from tests.support.waiting import eventually

MARKED = Message(
    to=["bad+marked-address@marked-domain.example"], subject="marked-subject", body="<p>marked-body</p>"
)  # fmt: skip


class Ingest(Posted):
    """What Sentry's SDK sends its envelopes to."""

    @property
    def dsn(self) -> str:
        return f"http://key@{self.address}/1"

    @property
    def envelopes(self) -> list[str]:
        return [body.decode() for body in self.bodies]

    def events(self) -> list[dict[str, Any]]:
        """The events in the envelopes: the lines that have a fingerprint."""
        lines = (line for envelope in self.envelopes for line in envelope.splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if "fingerprint" in event]

    def traces(self) -> list[dict[str, Any]]:
        """The transactions in the envelopes."""
        lines = (line for envelope in self.envelopes for line in envelope.splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("type") == "transaction" and "spans" in event]

    def fingerprints(self) -> set[tuple[str, ...]]:
        return {tuple(event["fingerprint"]) for event in self.events()}


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as ingest:
        yield ingest


def test_one_issue_for_each_rule_with_ids_alone(pg_server: PgServer, tmp_path: Path, ingest: Ingest) -> None:
    with pg_server.ledger() as url, running(url, tmp_path) as system:
        meet_trouble(system, ingest)
    text = "".join(ingest.envelopes)
    for mark in ("marked", API_KEY, "@"):
        assert mark not in text.replace(ingest.dsn, ""), mark
    dead = [event for event in ingest.events() if event["fingerprint"] == ["sendq", "dead_letter", "bad_request"]]
    assert len(dead) == 1
    assert sum(event["fingerprint"][1] == "in_doubt" for event in ingest.events()) == 1
    assert dead[0]["message"] == "dead_letter: bad_request"
    assert dead[0]["contexts"]["sendq"]["job"]


class TestATrace:
    def test_has_the_time_in_the_queue_and_the_call_and_leaves_the_api_without_headers(
        self, pg_server: PgServer, tmp_path: Path, ingest: Ingest
    ) -> None:
        with pg_server.ledger() as url, running(url, tmp_path, latency=0.05) as system:
            worker = system.start_worker(SENTRY_DSN=ingest.dsn, SENTRY_TRACES_SAMPLE_RATE="1")
            job = system.queue.send("open", MARKED)
            sent = system.queue.send("open", Message(to=["leyah@example.com"], subject="marked-subject", body="b"))
            eventually(lambda: len(ingest.traces()) == 2, "two traces at Sentry")
            requests = system.api.requests
            assert worker.terminate() == 0
        text = "".join(ingest.envelopes)
        assert not [mark for mark in ("marked", API_KEY, "leyah") if mark in text]
        assert not any({"sentry-trace", "baggage"} & request.headers.keys() for request in requests)
        traces = {trace["contexts"]["trace"]["data"]["messaging.message.id"]: trace for trace in ingest.traces()}
        assert traces.keys() == {job.id, sent.id}
        dead = traces[job.id]
        assert (dead["transaction"], dead["contexts"]["trace"]["op"]) == ("sendq.send", "queue.process")
        assert dead["contexts"]["trace"]["data"]["sendq.rule"] == "bad_request"
        assert 0 <= dead["contexts"]["trace"]["data"]["messaging.message.receive.latency"] < 60_000
        (call,) = traces[sent.id]["spans"]
        assert call["op"] == "http.client"
        assert call["timestamp"] > call["start_timestamp"]
        assert traces[sent.id]["contexts"]["trace"]["status"] == "ok"

    def test_is_not_made_unless_it_is_asked_for(self, pg_server: PgServer, tmp_path: Path, ingest: Ingest) -> None:
        with pg_server.ledger() as url, running(url, tmp_path) as system:
            worker = system.start_worker(SENTRY_DSN=ingest.dsn)
            system.queue.send("open", MARKED)
            system.wait_for(State.DEAD, 1)
            eventually(lambda: ingest.fingerprints(), "the dead letter at Sentry")
            assert worker.terminate() == 0  # it flushes what it has
        assert ingest.traces() == []


def meet_trouble(system: System, ingest: Ingest) -> None:
    system.api.grant("closed", status="invalid")
    system.api.will(Fault.status(418), grant="teapot", times=None)
    system.api.will(
        Fault.status(403, message="Gmail API has not been used in project 1 before or it is disabled."),
        grant="disabled",
        times=None,
    )
    worker = system.start_worker(SENTRY_DSN=ingest.dsn, SENDQ_ANNOUNCE_AFTER_S="0")
    for _ in range(5):
        system.queue.send("open", MARKED)
    system.queue.send("closed", MARKED)
    system.queue.send("teapot", MARKED)
    system.wait_for(State.DEAD, 6)
    for _ in range(2):
        system.queue.send("doubtful", mail("timeout@example.com"))
    system.queue.send("disabled", MARKED, provider="google")
    wanted = {
        ("sendq", "dead_letter", "bad_request"),
        ("sendq", "dead_letter", "undocumented_4xx"),
        ("sendq", "reauth_required", "grant_unauthorized"),
        ("sendq", "hold", "gmail_api_disabled"),
        ("sendq", "in_doubt", "provider_timeout"),
    }
    eventually(lambda: wanted <= ingest.fingerprints(), f"{wanted} at Sentry")
    assert not any({"sentry-trace", "baggage"} & request.headers.keys() for request in system.api.requests)
    assert worker.terminate() == 0
