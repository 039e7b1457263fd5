"""Changes and deletions of messages in a mailbox: of those that are named, or of all that match a query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sendq import changes
from sendq.api.decoding import KEYS_DIFFER, Given, arguments, bulk_options, check_reason, query_of, require_grant
from sendq.api.operation import Asked, Result, require_visible
from sendq.api.sending import conflicting, made
from sendq.errors import InvalidArgument, InvalidJob, KeyConflict, Problem
from sendq.views import Batch, Priority

CHANGES: dict[str, Any] = {
    "unread": bool | None,
    "starred": bool | None,
    "folders": list[str] | None,
    "metadata": dict[str, str] | None,
}
WHICH: dict[str, Any] = {"message_ids": list[str] | None, "thread_ids": list[str] | None}
# With a query, these are fields of the query.
SHARED: dict[str, Any] = {"shared_from": str | None, "shared_folder_id": str | None}
MODIFY: dict[str, Any] = {"undoable": bool, "whole_threads": bool, "query_imap": bool | None, **SHARED}
DELETE: dict[str, Any] = {"hard": bool, **SHARED}
UNDO: dict[str, Any] = {
    "key": str | None, "priority": Priority | str | int, "on_outcome": str | None, "reason": str | None,
}  # fmt: skip


def modify(asked: Asked) -> Result:
    """Enqueue a change."""
    return _enqueue(asked, CHANGES, MODIFY, frozenset({"undoable"}))


def delete(asked: Asked) -> Result:
    """Enqueue a deletion."""
    return _enqueue(asked, {}, DELETE, frozenset({"hard"}))


def undo(asked: Asked) -> Result:
    """Undo a batch of modifications that kept what it changed."""
    batch_id = asked.values["batch_id"]
    require_visible(asked, batch_id=batch_id)
    given = arguments(asked.given, UNDO, *_UNDO_CHECKS, check_reason, optional=True)
    key = given.pop("key", None)
    if asked.key is not None:
        if key not in (None, asked.key):
            raise InvalidArgument([KEYS_DIFFER])
        key = asked.key
        _check_key({"key": key})
    try:
        return made(asked, asked.queue.undo(batch_id, undo_key=key, by=asked.author, **given))
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None


def _check_key(given: dict[str, Any]) -> None:
    try:
        changes.undo_key_of(given.get("key"))
    except InvalidArgument as wrong:
        raise InvalidArgument([replace(one, field="key") for one in wrong.problems]) from None


_UNDO_CHECKS = (
    _check_key,
    lambda given: changes.priority_of(given.get("priority", Priority.NORMAL)),
    lambda given: changes.target_of(given.get("on_outcome")),
)


def _enqueue(asked: Asked, changes: dict[str, Any], more: dict[str, Any], with_query: frozenset[str]) -> Result:
    given = Given.of(asked.given)
    grant_id = given.left.pop("grant_id", None)
    require_grant(asked.token, grant_id)
    options = bulk_options(given, asked.token, asked.key, asked.traceparent)
    values = given.take_some(changes | WHICH | more)
    query = given.take("query")
    given.end()
    problems = given.problems
    if query is not None:
        for name in sorted(values.keys() & (WHICH.keys() | more.keys()) - with_query):
            remedy = (
                "name the messages, or send a query" if name in WHICH else "set it within the query, or leave it out"
            )
            problems.append(Problem(name, "cannot be combined with a query", remedy))
        try:
            query = query_of(query)
        except InvalidJob as wrong:
            problems += wrong.problems
    if problems:
        raise InvalidJob(problems)
    try:
        return made(asked, _call(asked, "modify" if changes else "delete", grant_id, query, values | options))
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None


def _call(asked: Asked, operation: str, grant_id: Any, query: Any, arguments: dict[str, Any]) -> Batch:
    if query is not None:
        batch: Batch = getattr(asked.queue, f"{operation}_matching")(grant_id, query, **arguments)
    else:
        batch = getattr(asked.queue, operation)(grant_id, **arguments)
    return batch
