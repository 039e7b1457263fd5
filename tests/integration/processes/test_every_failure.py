"""Every documented failure, end to end: enqueue, ledger, worker, HTTP, the page's answer, and what becomes of the job.

One row for each error of the page (and for the siblings that share its status), with the answer taken from the golden
cases. It states the route, who is left alone, how many calls the job costs, and where it ends. Times are shrunk by the
policy's file alone: waits last `WAIT_S`, backoffs a tenth of a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from sendq import State
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.simulator import Fault
from sendq.views import JobView
from tests.support.servers import PgServer
from tests.support.system import API_KEY, System, mail, running
from tests.support.waiting import eventually

GOLDEN = Path(__file__).parents[2] / "data" / "golden_errors.json"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads(GOLDEN.read_text())["cases"]}

# Long enough that a job outside of a hold goes out while it lasts, also on a busy machine.
WAIT_S = 1.2

WAITS = (
    "api_key", "gmail_daily_limit", "gmail_minute_limit", "quota_exceeded", "gmail_api_disabled", "account_throttled",
    "nylas_limit", "nylas_limit_application", "resource_exhausted", "exchange_throttled", "mailbox_concurrency_send",
    "tenant_quarantined", "quota_hour", "sender_blocked", "not_the_api", "gmail_project_minute_limit", "sending_paused",
    "sign_in_transient", "microsoft_throttled_send",
)  # fmt: skip
BACKOFFS = {
    "provider_later": 6,
    "provider_error": 4,
    "sending_error": 4,
    "nylas_limit": 6,
    "nylas_limit_application": 6,
}

# Whatever holds more than one grant has an application to itself, so that no other row waits for it.
APPLICATIONS = ("gmail-off", "gmail-day", "gmail-minute", "bad-key", "busy", "firewall")


@dataclass(frozen=True)
class Row:
    """What the page says, and what must happen. ``times``: how often the API answers so; None: for good."""

    heading: str
    case: str
    rule: str
    route: str
    scope: str
    calls: int
    ends: State
    times: int | None = None
    application: str = "default"
    sent: str = "no"

    def __str__(self) -> str:
        return f"{self.heading}: {self.case}"


WAITING, SENT, DEAD, IN_DOUBT = State.QUEUED, State.SENT, State.DEAD, State.IN_DOUBT
# fmt: off
ROWS = (
    Row("Authentication failed", "400 authentication failed, invalid_grant",
        "authentication_failed", "reauth", "grant", 1, WAITING),
    Row("Authentication failed", "400 authentication failed, scopes",
        "authentication_failed_400", "reauth", "grant", 1, WAITING),
    Row("Bad request", "400 bad request", "bad_request", "dead_letter", "job", 1, DEAD),
    Row("Redirect URI is not HTTPS or localhost", "400 redirect URI, words",
        "redirect_uri", "dead_letter", "job", 1, DEAD),
    Row("This proposal does not allow direct password entry", "400 password entry",
        "password_entry", "reauth", "grant", 1, WAITING),
    Row("Unauthorized", "401 application key",
        "api_key", "requeue", "application", 2, SENT, times=1, application="bad-key"),
    Row("Unauthorized", "401 grant", "grant_unauthorized", "reauth", "grant", 1, WAITING),
    Row("Sending to at least one recipient failed", "402 at least one recipient",
        "recipients_partly_refused", "dead_letter", "job", 1, DEAD, sent="partly"),
    Row("Message rejected", "402 all recipients", "recipients_all_refused", "dead_letter", "job", 1, DEAD),
    Row("Unauthorized", "403 provider authentication", "forbidden", "reauth", "grant", 1, WAITING),
    Row("Unauthorized", "403 scopes", "scopes_missing", "reauth", "grant", 1, WAITING),
    Row("Unauthorized", "403 tenant quarantined", "tenant_quarantined", "requeue", "grant", 2, SENT, times=1),
    Row("Unauthorized", "403 quota per minute", "gmail_minute_limit", "requeue", "grant", 2, SENT, times=1),
    Row("Gmail API has not been used in project", "403 Gmail API disabled",
        "gmail_api_disabled", "requeue", "provider", 2, SENT, times=1, application="gmail-off"),
    Row("Different email address returned", "403 different address",
        "different_address", "reauth", "grant", 1, WAITING),
    Row("Mail provider error", "422 mail provider error, 5xx", "provider_refused", "dead_letter", "job", 1, DEAD),
    Row("Mail provider error", "422 mail provider error, 4xx", "provider_later", "retry", "job", 3, SENT, times=2),
    Row("Mail provider error", "422 mail provider error, no code", "provider_error", "retry", "job", 4, DEAD),
    Row("Sending error", "422 sending error", "sending_error", "retry", "job", 4, DEAD),
    Row("Account throttled", "429 account throttled", "account_throttled", "requeue", "grant", 2, SENT, times=1),
    Row("Quota exceeded", "429 quota exceeded, SMTP words", "quota_exceeded", "requeue", "grant", 2, SENT, times=1),
    Row("Nylas API rate limit", "429 Nylas limit", "nylas_limit", "retry", "grant", 2, SENT, times=1),
    Row("Nylas API rate limit", "429 Nylas limit of the application",
        "nylas_limit_application", "retry", "application", 2, SENT, times=1, application="busy"),
    Row("Too many requests", "403 Gmail daily limit of the project",
        "gmail_daily_limit", "requeue", "provider", 2, SENT, times=1, application="gmail-day"),
    Row("Resource exhausted", "429 resource exhausted",
        "resource_exhausted", "requeue", "grant", 2, SENT, times=1),
    Row("Exchange account throttled", "429 Exchange", "exchange_throttled", "requeue", "grant", 2, SENT, times=1),
    Row("Exchange account throttled", "503 Exchange", "exchange_throttled", "requeue", "grant", 2, SENT, times=1),
    Row("MailboxConcurrency", "429 MailboxConcurrency",
        "mailbox_concurrency_send", "requeue", "grant", 1, IN_DOUBT, times=1, sent="maybe"),
    Row("Account throttled", "429 ApplicationThrottled without its words",
        "microsoft_throttled_send", "requeue", "grant", 1, IN_DOUBT, times=1, sent="maybe"),
    Row("Authentication failed", "422 sign-in refused, Dovecot",
        "sign_in_refused_code", "reauth", "grant", 1, WAITING),
    Row("Authentication failed", "401 Microsoft's sign-in fails for now",
        "sign_in_transient", "requeue", "grant", 2, SENT, times=1),
    Row("Quota exceeded", "422 hourly quota, cPanel", "quota_hour", "requeue", "grant", 2, SENT, times=1),
    Row("Sending error", "422 the sender is blocked, Zoho", "sender_blocked", "requeue", "grant", 2, SENT, times=1),
    Row("Too many requests", "403 the project's minute",
        "gmail_project_minute_limit", "requeue", "provider", 2, SENT, times=1, application="gmail-minute"),
    Row("Not the API", "403 a firewall's page",
        "not_the_api", "requeue", "application", 2, SENT, times=1, application="firewall", sent="maybe"),
    Row("Sending is paused", "400 sending is paused", "sending_paused", "requeue", "grant", 2, SENT, times=1),
    Row("Refused by an outbound rule", "403 an outbound rule", "outbound_rule", "dead_letter", "job", 1, DEAD),
    Row("Bad request", "400 no recipients, required", "no_recipients", "dead_letter", "job", 1, DEAD),
)
# fmt: on

# What the API says of a grant when it is asked: for these the answer of the send is not enough.
ASKED = ("grant_unauthorized", "forbidden", "authentication_failed_400")

# These come from a proxy, which may have passed the request on.
HIDDEN = ("not_the_api",)


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker and several applications."""
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory) as system:
        system.policy.write_text("".join(map(shrunk, sorted({*WAITS, *BACKOFFS}))))
        others = {name: {"api_key": API_KEY, "api_uri": system.api.url} for name in APPLICATIONS}
        system.start_worker(SENDQ_APPLICATIONS=json.dumps(others))
        yield system


def shrunk(rule: str) -> str:
    """The rule with short times."""
    lines = [f'[[change]]\nid = "{rule}"\n']
    if rule in WAITS:
        lines.append(f"wait = {{ default = {WAIT_S}, floor = {WAIT_S}, cap = {WAIT_S} }}\n")
    if rule in BACKOFFS:
        lines.append(f"backoff = {{ base = 0.1, cap = 0.1, number = {BACKOFFS[rule]} }}\n")
    return "".join(lines)


class Play:
    """One row, played: a job that meets the failure, and then neighbours inside and outside of what it concerns."""

    def __init__(self, system: System, row: Row) -> None:
        self.system, self.row, self.case = system, row, CASES[row.case]
        self.grant = f"row-{uuid4()}"
        self.provider = self.case["provider"]
        self.system.api.will(
            Fault.body(
                self.case["status"],
                self.case["body"],
                headers=self.case.get("headers"),
                expires_grant=row.rule in ASKED,
                # The firewall blocks the answer: the API has sent the message, and the same key finds that out.
                accepted=row.rule in HIDDEN,
                kept="outcome" if row.rule in HIDDEN else "answer",
            ),
            grant=self.grant,
            operation=self.case["operation"],
            times=row.times,
        )
        self.job = self.enqueue(self.grant)
        eventually(lambda: self.view(self.job).trail, "the first attempt")

    def enqueue(self, grant: str, **options: Any) -> str:
        """One job of the kind that the case is about."""
        options = {"application": self.row.application, "provider": self.provider} | options
        if self.case["operation"] == "send":
            return self.system.queue.send(grant, mail(), **options).id
        batch = self.system.queue.modify(grant, [f"m-{grant}-{time.monotonic_ns()}"], starred=True, **options)
        with reading(self.system.engine) as connection:
            table = schema.job.c
            return str(connection.execute(select(table.id).where(table.batch_id == UUID(batch.id))).scalar_one())

    def inside(self) -> str:
        """A job that the failure concerns as well."""
        other = "microsoft" if self.provider != "microsoft" else "google"
        match self.row.scope:
            case "grant":
                return self.enqueue(self.grant)
            case "provider":
                return self.enqueue(f"{self.grant}-inside")
            case _:
                return self.enqueue(f"{self.grant}-inside", provider=other)

    def outside(self) -> str:
        """A job as near as can be that the failure does not concern."""
        other = "microsoft" if self.provider != "microsoft" else "google"
        match self.row.scope:
            case "grant":
                return self.enqueue(f"{self.grant}-outside")
            case "provider":
                return self.enqueue(f"{self.grant}-outside", provider=other)
            case _:
                return self.enqueue(f"{self.grant}-outside", application="default")

    def view(self, job: str) -> JobView:
        return self.system.queue.job(job)

    def is_over(self) -> bool:
        """Whether the job is where it belongs; a waiting one is when nothing is suspected of its grant any more."""
        if self.row.ends is not WAITING:
            return self.view(self.job).state is self.row.ends
        lane = self.lane()
        return lane.closed_at is not None and not lane.suspected

    def lane(self) -> Any:
        with reading(self.system.engine) as connection:
            wanted = schema.lane.c.id == lane_id(self.row.application, self.grant)
            return connection.execute(select(schema.lane).where(wanted)).one()

    def left_alone(self) -> set[tuple[str, str]]:
        """What was held or closed, and by which rule."""
        table, lane = schema.pair.c, self.lane()
        ours = select(schema.pair).where(table.application == self.row.application, table.held_rule.is_not(None))
        with reading(self.system.engine) as connection:
            pairs = connection.execute(ours).all()
        found = {("application" if pair.provider == "*" else "provider", pair.held_rule) for pair in pairs}
        rule = lane.held_rule or lane.closed_rule
        return found | ({("grant", rule)} if rule else set())


def is_sent(play: Play, job: str) -> bool:
    return play.view(job).state is SENT


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_documented_failure_takes_its_route(system: System, row: Row) -> None:
    play = Play(system, row)
    inside, outside = (None, None) if row.scope == "job" else (play.inside(), play.outside())
    eventually(play.is_over, f"the job {row.ends.value}")
    if inside is not None and outside is not None:
        assert_left_alone(play, inside, outside)
    view = play.view(play.job)
    first = view.trail[0]
    assert (first.rule, first.route, first.sent, first.status) == (row.rule, row.route, row.sent, play.case["status"])
    assert play.left_alone() == (set() if row.scope == "job" else {(row.scope, row.rule)})
    assert len(view.trail) == row.calls
    calls = [one for one in system.api.requests if one.grant == play.grant and one.operation != "grant"]
    assert len(calls) == row.calls + (row.scope == "grant" and row.ends is not WAITING)
    assert view.state is row.ends
    if row.rule in HIDDEN:
        assert sum(one.grant == play.grant for one in system.api.mailbox) == 1


def assert_left_alone(play: Play, inside: str, outside: str) -> None:
    """No call inside of the scope before its time, and none outside that waits for it."""
    eventually(lambda: is_sent(play, outside), "a job outside of the scope sent")
    if play.row.ends is WAITING:
        assert play.system.queue.why(inside).reason == "reauth"
        assert play.view(inside).trail == ()
        return
    eventually(lambda: is_sent(play, inside), "a job inside of the scope sent")
    refused, after = play.view(play.job).trail[0], play.view(inside).trail[0]
    assert (after.begun_at - refused.ended_at).total_seconds() >= WAIT_S
    assert play.view(outside).trail[0].begun_at < after.begun_at


def test_modifications_keep_a_distance_after_resource_exhausted(system: System) -> None:
    play = Play(system, next(row for row in ROWS if row.rule == "resource_exhausted"))
    batch = system.queue.modify(play.grant, ["a", "b"], unread=False, provider="google")
    eventually(lambda: system.queue.batch(batch.id).progress == 1, "the modifications")
    starts = [one.at for one in system.api.requests if one.grant == play.grant][1:]
    assert len(starts) == 3
    # The start is measured before the request is written, and the arrival after it.
    assert all(later - earlier >= 0.95 for earlier, later in pairwise(starts))


def test_one_call_at_a_time_after_mailbox_concurrency(system: System) -> None:
    play = Play(system, next(row for row in ROWS if row.rule == "mailbox_concurrency_send"))
    jobs = [play.enqueue(play.grant) for _ in range(6)]
    eventually(lambda: all(is_sent(play, job) for job in jobs), "the jobs")
    calls = [one for one in system.api.requests if one.grant == play.grant]
    assert all(later.at >= (earlier.done_at or 0) for earlier, later in pairwise(calls))


def test_nothing_went_wrong_on_the_way(system: System) -> None:
    assert "Traceback" not in system.workers[0].said()
    assert '"bug"' not in system.workers[0].said()
