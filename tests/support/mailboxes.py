"""Messages in a mailbox of the simulated API, changed in bulk and by their owner."""

from __future__ import annotations

from typing import Any

from sendq import Batch, BatchView
from tests.support.system import System
from tests.support.waiting import LIMIT_S, eventually

FIELDS = ("unread", "starred", "folders", "metadata")
CHANGES: dict[str, Any] = {"unread": False, "starred": True, "folders": ["DONE"], "metadata": {"crm": "done"}}

States = dict[str, dict[str, Any]]


def fill(system: System, grant: str, count: int) -> States:
    """Messages that differ in everything, by their ids, with the state that they have."""
    for number in range(count):
        system.api.message(
            grant, f"{grant}-{number:06}", unread=number % 2 == 0, starred=number % 3 == 0,
            folders=["INBOX", f"private {number % 4}"], metadata={"crm": str(number)}, subject="tidy",
        )  # fmt: skip
    return states(system, grant)


def states(system: System, grant: str) -> States:
    """The state of each message."""
    with system.api._store.changed:
        messages = system.api._store.messages[grant]
        return {name: {field: one.document[field] for field in FIELDS} for name, one in messages.items()}


def touch(system: System, grant: str, message: str, **changes: Any) -> None:
    """Somebody changes a message in their mailbox."""
    store = system.api._store
    found = store.find_message(grant, message)
    assert found is not None
    store.modify(grant, found, changes)


def remove(system: System, grant: str, message: str) -> None:
    """Somebody deletes a message in their mailbox."""
    store = system.api._store
    found = store.find_message(grant, message)
    assert found is not None
    store.remove(grant, found)


def finished(system: System, batch: Batch) -> BatchView:
    """The batch once it has ended."""
    view = system.queue.batch(batch.id)

    def has_finished() -> bool:
        nonlocal view
        view = system.queue.batch(batch.id)
        return view.finished_at is not None

    eventually(has_finished, f"the end of batch {batch.id}", limit_s=LIMIT_S)
    return view
