"""What proves that a message went out, and what that it did not: by an API that refuses before it looks at its keys,
behind a proxy that answers for it.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row as DbRow
from sqlalchemy import select, update

from sendq import State
from sendq.clock import SECOND
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from sendq.simulator import Fault, Request
from tests.integration.processes.test_every_failure import BACKOFFS, CASES, HIDDEN, ROWS, WAITS, Row, shrunk
from tests.support.servers import PgServer
from tests.support.system import API_KEY, System, mail, running
from tests.support.waiting import eventually

# Every documented failure of a send that says that the message did not go out.
REFUSALS = [row for row in ROWS if row.sent == "no" and CASES[row.case]["operation"] == "send"]
ABOVE_GRANT = {row.rule: f"app-{number}" for number, row in enumerate(REFUSALS) if row.scope not in ("job", "grant")}
HOURS = 3 * 3600 * SECOND


class Gates:
    """Answers sends of some grants before the API does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, Iterator[Fault | None]] = {}

    def answer(self, grant: str, *answers: Fault | None, then: Fault | None = None) -> None:
        """Answer the next sends of this grant with these, one after the other, and all further ones with the last;
        None: the API answers.
        """
        with self._lock:
            self._answers[grant] = itertools.chain(answers, itertools.repeat(then))

    def __call__(self, request: Request) -> Fault | None:
        if request.operation != "send":
            return None
        with self._lock:
            answers = self._answers.get(request.grant or "")
            return next(answers) if answers else None


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker. The gates of its API stand before the store of keys."""
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory) as system:
        short = "".join(map(shrunk, sorted({*WAITS, *BACKOFFS})))
        short += '[[change]]\nid = "contradiction"\nbackoff = { base = 0.1, cap = 0.1, number = 6 }\n'
        system.policy.write_text(system.policy.read_text() + short)
        system.api.behaviour.gates_first = True
        system.api.behaviour.gate = Gates()
        others = {name: {"api_key": API_KEY, "api_uri": system.api.url} for name in ABOVE_GRANT.values()}
        # Many grants are refused at once here, which would look like a fault of the application.
        system.start_worker(SENDQ_APPLICATIONS=json.dumps(others), SENDQ_ESCALATE_GRANTS="1000", SENDQ_INDEX_LAG_S="1")
        yield system


def gates_of(system: System) -> Gates:
    gates = system.api.behaviour.gate
    assert isinstance(gates, Gates)
    return gates


def begin(system: System, row: Row, *, for_ever: bool) -> tuple[str, str]:
    """A send that goes out and whose answer is lost; its repeats are refused. Returns the grant and the job."""
    case, grant = CASES[row.case], f"{row.case}-{for_ever}".replace(" ", "-")
    refusal = Fault.body(case["status"], case["body"], headers=case.get("headers"))
    gates_of(system).answer(grant, None, refusal, then=refusal if for_ever else None)
    system.api.will(Fault.drop(accepted=True), grant=grant, operation="send")
    application = ABOVE_GRANT.get(row.rule, "default")
    job = system.queue.send(grant, mail(), application=application, provider=case["provider"]).id
    return grant, job


def copies(system: System, grant: str) -> int:
    return sum(one.grant == grant for one in system.api.mailbox)


def refused(system: System, job: str, rule: str) -> bool:
    return any(attempt.rule == rule for attempt in system.queue.job(job).trail)


def reopen(system: System, row: Row, grant: str) -> None:
    """Have the API asked about a closed grant now, instead of in a minute."""
    lane = schema.lane
    wanted = lane.c.id == lane_id(ABOVE_GRANT.get(row.rule, "default"), grant)
    with writing(system.engine) as connection:
        connection.execute(update(lane).where(wanted, lane.c.closed_at.is_not(None)).values(check_at=1))


def test_refused_once_goes_out_once(system: System) -> None:
    begun = {row: begin(system, row, for_ever=False) for row in REFUSALS}

    def all_sent() -> bool:
        for row, (grant, job) in begun.items():
            if system.state(job) is not State.SENT:
                reopen(system, row, grant)
                return False
        return True

    eventually(all_sent, "every message sent")
    for row, (grant, job) in begun.items():
        trail = system.queue.job(job).trail
        assert copies(system, grant) == 1, row
        assert [(one.rule, one.sent) for one in trail[-2:]] == [(row.rule, "maybe"), ("accepted", "yes")], row
        assert "no" not in {one.sent for one in trail}, row
        assert {one.key for one in system.api.requests if one.job == job} == {f"{job}:0"}, row


SOME = [row for row in REFUSALS if row.rule in ("bad_request", "forbidden", "account_throttled", "exchange_throttled")]


def test_refused_for_ever_is_looked_for_and_never_dead(system: System) -> None:
    begun = {row: begin(system, row, for_ever=True) for row in SOME}
    for row, (_, job) in begun.items():
        eventually(lambda job=job, row=row: refused(system, job, row.rule), f"the refusal: {row}")  # type: ignore[misc]
    for row, (grant, job) in begun.items():
        eventually(lambda row=row, grant=grant, job=job: is_found(system, row, grant, job), str(row))  # type: ignore[misc]
    for row, (grant, job) in begun.items():
        assert copies(system, grant) == 1, row
        assert {one.sent for one in system.queue.job(job).trail} == {"maybe", "yes"}, row


def is_found(system: System, row: Row, grant: str, job: str) -> bool:
    """Whether the mailbox has shown it. Its key is old, and a search is due at once."""
    known = _row(system, job)
    if known.state == State.QUEUED and known.key_at is not None:
        _set(system, job, State.QUEUED, key_at=known.key_at - HOURS)
    elif known.state == State.IN_DOUBT and known.look_at is not None and known.seen is None:
        _set(system, job, State.IN_DOUBT, look_at=1)
    assert known.state != State.DEAD
    reopen(system, row, grant)
    return bool(known.state == State.SENT)


def _row(system: System, job: str) -> DbRow[Any]:
    with reading(system.engine) as connection:
        return connection.execute(select(schema.job).where(schema.job.c.id == UUID(job))).one()


def _set(system: System, job: str, state: State, **values: Any) -> None:
    table = schema.job
    with writing(system.engine) as connection:
        connection.execute(update(table).where(table.c.id == UUID(job), table.c.state == state.value).values(**values))


def test_a_throttle_that_may_have_come_too_late_costs_one_listing(system: System) -> None:
    """Every other throttled message has gone out, and shows half a second later."""
    over = {"error": {"code": "ApplicationThrottled", "message": "Application is over its MailboxConcurrency limit."}}
    system.api.behaviour.listing_delay = system.api.behaviour.index_delay = 0.5
    for number in range(4):
        throttle = Fault.status(429, type="rate_limit_error", provider_error=over, accepted=number % 2 == 0)
        system.api.will(throttle, grant="throttled", operation="send")
    jobs = [system.queue.send("throttled", mail(), provider="microsoft").id for _ in range(8)]
    eventually(lambda: all(system.state(job) is State.SENT for job in jobs), "every message sent")
    accepted = system.accepted()
    assert {job: accepted[job] for job in jobs} == dict.fromkeys(jobs, 1)
    assert sum(one.grant == "throttled" and one.operation == "list" for one in system.api.requests) == 4


# What a proxy in between answers with 200, and adds ``x-request-id`` to, as Envoy and Heroku do.
PAGES = [b"<html><title>Welcome</title></html>", b'{"data": [1]}', b'{"status": "ok"}', b"", b'{"data": {"data": {}}}']


def test_pages_of_a_proxy_are_not_booked_as_sent(system: System) -> None:
    """They may hide an answer or not: the same key is asked again."""
    jobs = {}
    for number in range(30):
        grant, went_out = f"proxy-{number}", number % 3 == 0
        page = Fault.body(200, PAGES[number % len(PAGES)], headers={"X-Request-Id": "r"}, kept="outcome")
        if went_out:  # the first request is carried out, and its answer replaced
            system.api.will(replace(page, accepted=True), grant=grant, operation="send")
        gates_of(system).answer(grant, None if went_out else page, page, page)
        jobs[grant] = system.queue.send(grant, mail()).id
    eventually(lambda: all(system.state(job) is State.SENT for job in jobs.values()), "every message sent")
    for grant, job in jobs.items():
        assert copies(system, grant) == 1, grant
        trail = [(one.rule, one.sent) for one in system.queue.job(job).trail]
        assert trail == [("contradiction", "maybe")] * 3 + [("accepted", "yes")], grant
        assert {one.key for one in system.api.requests if one.job == job} == {f"{job}:0"}, grant


def test_a_proxy_that_answers_for_ever_leaves_sends_in_doubt(system: System) -> None:
    page = Fault.body(200, PAGES[0], headers={"X-Request-Id": "r"})
    gates_of(system).answer("captive", then=page)
    job = system.queue.send("captive", mail()).id
    eventually(lambda: system.state(job) is State.IN_DOUBT, "the doubt")
    assert copies(system, "captive") == 0


def test_nothing_went_wrong_on_the_way(system: System) -> None:
    assert not {row.rule for row in REFUSALS} & set(HIDDEN)
    assert '"bug"' not in system.workers[0].said()
