"""Mail merge of 100,000 recipients, `send_many` and single sends: CPU, time and memory of the caller.

    ./dev bench merge [--recipients 100000] [--report DIRECTORY]

On SQLite and PostgreSQL, each call in its own process, after a small one that loads what is only loaded once. Memory is
the peak above what the process held before the call. The rows come from a generator. The merges:

    fields      three fields in a short HTML body and one in the subject
    keys        the same, with a key in each row
    equal       a long body that all messages have
    template    a template of Nylas, which gets the fields

PostgreSQL runs with fsync off, as in the tests: the caller's CPU is the same, and commits wait less. "Statements" are
those of one send, without BEGIN and COMMIT.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import event

from benchmarks import reporting
from sendq import Message, NewBatch, Options, Send, SendQueue, Template
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from tests.support.servers import running_postgres

GRANT = "bench"

# What one call of 100,000 may take, here for any number of recipients, and what it may hold at its peak.
MOST_CPU_S, FOR, MOST_MB = 10.0, 100_000, 50.0

_SENTENCES = "The terms of your plan have not changed, and nothing needs to be done now. " * 6
_HTML = f"<h1>Hello {{{{first_name}}}}</h1><p>{{{{city}}}} has news.</p><p>{_SENTENCES}</p><p>{{{{offer}}}}</p>"
MERGES = {
    "fields": Message(subject="News for {{first_name}}", body=_HTML),
    "keys": Message(subject="News for {{first_name}}", body=_HTML),
    "equal": Message(subject="News for {{first_name}}", body=f"<p>{_SENTENCES * 20}</p>"),
    "template": Message(template=Template(id="template-1")),
}
CALLS = ("send_many", "send")


def main(arguments: list[str]) -> int:
    """Exit status 1 if a bar was missed."""
    given = _parser().parse_args(arguments)
    if given.part:
        print(json.dumps(_PARTS[given.part](given.url, given.number)))
        return 0
    rows = measure(given)
    merges, calls = [row for row in rows if row["call"] in MERGES], [row for row in rows if row["call"] in CALLS]
    bars = list(_bars(merges, given.recipients))
    lines = [
        *reporting.head("Mail merge", f"./dev bench merge --recipients {given.recipients}"),
        *reporting.section("mail_merge", f"{given.recipients:,} recipients in one call.", reporting.table(merges)),
        *reporting.bars(bars),
        *reporting.section("send_many and send", "", reporting.table(calls)),
    ]
    reporting.write(given.report / "merge.md", lines)
    print("\n".join(lines))
    return 0 if all(bar.met for bar in bars) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench merge", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipients", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=10_000, help="of the call of send_many")
    parser.add_argument("--sends", type=int, default=1_000, help="one after the other")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    parser.add_argument("--part", choices=[*MERGES, *CALLS], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    return parser


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every call on both databases."""
    numbers = dict.fromkeys(MERGES, given.recipients) | {"send_many": given.messages, "send": given.sends}
    found = []
    with running_postgres() as pg, tempfile.TemporaryDirectory(prefix="sendq-bench-") as home:
        for name, number in numbers.items():
            with pg.ledger() as url:
                found.append({"call": name, "ledger": "PostgreSQL"} | _part(name, url, number))
            url = f"sqlite:///{home}/{name}.db"
            ledger = open_engine(url)
            migrate.upgrade(ledger)
            ledger.dispose()
            found.append({"call": name, "ledger": "SQLite"} | _part(name, url, number))
    return found


def _part(name: str, url: str, number: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "merge", "--part", name, "--url", url, "--number", str(number)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _bars(merges: list[dict[str, Any]], recipients: int) -> Iterator[reporting.Bar]:
    for row in merges:
        where = f"{row['call']}, {row['ledger']}"
        yield reporting.Bar(f"{where}: CPU s per {FOR:,}", round(row["cpu_s"] * FOR / recipients, 1), MOST_CPU_S)
        yield reporting.Bar(f"{where}: MB above the start", row["peak_over_start_mb"], MOST_MB)


def rows(number: int, *, keys: bool, first: int = 0) -> Iterator[dict[str, str]]:
    """The rows of so many recipients."""
    for at in range(first, first + number):
        row = {"email": f"customer{at}@example.com", "name": f"Customer {at}", "first_name": f"First{at}"}
        row |= {"city": "São Paulo & Rio", "offer": f"Offer {at % 100}"}
        yield row | {"key": f"news:{at}"} if keys else row


def _merge(name: str) -> Callable[[str, int], dict[str, Any]]:
    def merge(url: str, number: int) -> dict[str, Any]:
        queue = SendQueue(url)
        keys = name == "keys"
        queue.mail_merge(GRANT, MERGES[name], rows(2_000, keys=keys, first=number), batch=NewBatch())
        before, began, cpu = _peak_mb(), time.perf_counter(), time.process_time()
        batch = queue.mail_merge(GRANT, MERGES[name], rows(number, keys=keys), batch=NewBatch(key="news"))
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - began
        if batch.total != number:
            raise RuntimeError(f"the batch has {batch.total} messages, not {number}")
        return {
            "cpu_s": round(cpu_s, 2),
            "cpu_ms_per_message": round(cpu_s / number * 1_000, 4),
            "wall_s": round(wall_s, 2),
            "peak_over_start_mb": round(_peak_mb() - before, 1),
            "contents": _scalar(url, "SELECT count(*) FROM sendq_content"),
        }

    return merge


def _message(at: int) -> Message:
    body = _HTML.replace("{{first_name}}", str(at))
    return Message(to=[{"email": f"customer{at}@example.com", "name": "A Customer"}], subject=f"News {at}", body=body)


def send_many(url: str, number: int) -> dict[str, Any]:
    """One call with a list of messages for a hundred grants, each with a key."""
    queue = SendQueue(url)
    queue.send_many([Send(GRANT, _message(at)) for at in range(200)])
    sends = [Send(f"{GRANT}-{at % 100}", _message(at), Options(key=f"k{at}")) for at in range(number)]
    before, began, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    queue.send_many(sends)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - began
    return _of_calls(number, cpu_s, wall_s, before) | {"statements": ""}


def send(url: str, number: int) -> dict[str, Any]:
    """One send after the other, each with a key and a new message object, as in an application."""
    queue = SendQueue(url)
    for at in range(100):
        queue.send(f"{GRANT}-{at}", _message(at), key=f"warm{at}")
    before, began, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    for at in range(number):
        queue.send(f"{GRANT}-{at % 100}", _message(at), key=f"k{at}")
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - began
    statements: list[str] = []

    @event.listens_for(queue._ledger.engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    queue.send(GRANT, _message(0), key="counted")
    return _of_calls(number, cpu_s, wall_s, before) | {"statements": len(statements)}


def _of_calls(number: int, cpu_s: float, wall_s: float, before: float) -> dict[str, Any]:
    return {
        "messages": number,
        "cpu_ms_per_message": round(cpu_s / number * 1_000, 4),
        "wall_s": round(wall_s, 2),
        "peak_over_start_mb": round(_peak_mb() - before, 1),
    }


def _scalar(url: str, statement: str) -> Any:
    ledger = open_engine(url)
    with ledger.connect() as connection:
        value = connection.exec_driver_sql(statement).scalar()
    ledger.dispose()
    return value


def _peak_mb() -> float:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


_PARTS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    **{name: _merge(name) for name in MERGES},
    "send_many": send_many,
    "send": send,
}
