"""Undo of one large batch against the simulated API: what the change and its undo cost, and whether all is as before.

    ./dev bench undo [--messages 50000] [--report DIRECTORY]

Messages that differ in their flags, folders and metadata are changed by one `modify_matching(…, undoable=True)`. Then
somebody changes every thousandth message, every thousandth but one is deleted, and the batch is undone. At the end each
message is compared: as before, or as it was touched. The provider's limits are lifted, because they would decide how
long it takes; the workers, PostgreSQL, Redis and the API share the machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import reporting
from sendq import BatchView, Query
from tests.support.mailboxes import CHANGES, States, fill, remove, states, touch
from tests.support.servers import running_postgres
from tests.support.system import System, running

GRANT = "bench"
EACH = 1_000
UNLIMITED = [{"provider": "google", "width": 32, "limits": {"nylas": None, "second": None, "minute": None}}]


def main(arguments: list[str]) -> int:
    """Exit status 0; 1: some message is not as it should be."""
    given = _parser().parse_args(arguments)
    found = measure(given.messages, given.workers)
    lines = [
        *reporting.head("Undo of one large batch", f"./dev bench undo --messages {given.messages}"),
        "",
        *reporting.facts(found),
    ]
    reporting.write(given.report / "undo.md", lines)
    print("\n".join(lines))
    return int(found["messages_not_as_they_should_be"] > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench undo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    return parser


def measure(messages: int, workers: int) -> dict[str, Any]:
    """Change, touch, undo and compare."""
    with (
        running_postgres() as pg,
        pg.ledger() as url,
        tempfile.TemporaryDirectory(prefix="sendq-bench-") as home,
        running(url, Path(home)) as system,
    ):
        system.api.grant(GRANT, provider="google")
        before = fill(system, GRANT, messages)
        for _ in range(workers):
            system.start_worker(SENDQ_PACES=json.dumps(UNLIMITED))
        batch = system.queue.modify_matching(
            GRANT, Query(subject="tidy"), **CHANGES, provider="google", undoable=True
        )  # fmt: skip
        changed_s = _seconds_of(_end_of(system, batch.id))
        kept_bytes = system.scalar("SELECT coalesce(sum(length(before)), 0) FROM sendq_snapshot")
        expected = _touch(system, before)
        began = time.monotonic()
        undo = system.queue.undo(batch.id, by="bench", reason="to measure it")
        call_s = time.monotonic() - began
        view = _end_of(system, undo.id)
        undone_s = _seconds_of(view)
        now = states(system, GRANT)
        wrong = sum(expected.get(name) != now.get(name) for name in expected.keys() | now.keys())
    return {
        "messages": messages,
        "change_s": round(changed_s, 1),
        "kept_bytes_per_message": round(kept_bytes / messages),
        "undo_call_s": round(call_s, 2),
        "undo_s": round(undone_s, 1),
        "ended": {state.value: number for state, number in view.counts.items()},
        "left_alone": {one.rule: one.number for one in view.left},
        "messages_not_as_they_should_be": wrong,
    }


def _touch(system: System, before: States) -> States:
    """Change some messages and delete others, as a user would; return what all should be after the undo."""
    names = list(before)
    changed, deleted = names[::EACH], names[1::EACH]
    for name in changed:
        touch(system, GRANT, name, unread=True)
    for name in deleted:
        remove(system, GRANT, name)
    now = states(system, GRANT)
    kept = {name: state for name, state in before.items() if name not in set(deleted)}
    return kept | {name: now[name] for name in changed}


def _seconds_of(view: BatchView) -> float:
    assert view.finished_at is not None
    return (view.finished_at - view.created_at).total_seconds()


def _end_of(system: System, batch_id: str) -> BatchView:
    while (view := system.queue.batch(batch_id)).finished_at is None:
        time.sleep(1.0)  # seldom, so that it is not measured; the ledger knows when the batch ended
    return view
