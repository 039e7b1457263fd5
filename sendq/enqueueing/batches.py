"""Bulk calls: which messages and which change, and the rows of the batch that a call becomes.

    ids of messages          one job each
    ids of threads, whole    one job each, on the thread
    ids of threads           a walk: one listing for each thread finds the messages, then one job each
    a query                  a walk: one listing finds the messages, then one job each

The first pages of a walk are jobs as well (operation ``list``); `sendq.ledger.walks` continues from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sendq.clock import Micros
from sendq.enqueueing.arguments import check_flag, check_ids
from sendq.enqueueing.following import refused_for_changes
from sendq.enqueueing.options import Options, expiry_of, first_at, given_expiry, opening, option_problems, priority_of
from sendq.enqueueing.page_query import page_query
from sendq.enqueueing.plan import Plan, Planned
from sendq.enqueueing.query import Query, check_query, freeze_query
from sendq.enqueueing.rows import Wakes, approval_columns, job_row, key_row
from sendq.enqueueing.shared import Shared, check_shared
from sendq.enqueueing.tracing import active_traceparent
from sendq.enqueueing.validation import check_changes
from sendq.errors import InvalidJob, Problem
from sendq.ids import lane_id, new_id
from sendq.messages.forms import JSON_TYPE, with_parameters
from sendq.messages.payload import bulk_digest, content_digest, freeze_changes
from sendq.rules.changed_fields import BITS, EVERY_FIELD, bits_of
from sendq.rules.message_state import SELECTED
from sendq.rules.tags import stored_tags

# One call is one transaction, and SQLite has one writer at a time: so many ids take it seconds, and others wait for at
# most half a minute.
MOST_IDS_SQLITE = 100_000

QUERY_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a modification sets; None leaves a field unchanged."""

    unread: bool | None = None
    starred: bool | None = None
    folders: Sequence[str] | None = None
    metadata: Mapping[str, str] | None = None


class NotGiven:
    """The default of a query; None would be a mistake of the caller's."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages that a bulk call is about: exactly one of the three is given."""

    message_ids: Iterable[str] | None = None
    thread_ids: Iterable[str] | None = None
    query: Query | type[NotGiven] = NotGiven

    @property
    def by_query(self) -> bool:
        """Whether a query finds them."""
        return self.query is not NotGiven


@dataclass(frozen=True, slots=True)
class BulkCall:
    """One call of ``modify``, ``delete``, ``modify_matching`` or ``delete_matching``: a deletion has no changes."""

    grant_id: str
    selection: Selection
    options: Options
    changes: Changes | None = None
    whole_threads: bool = False
    hard: bool = False
    undoable: bool = False
    shared: Shared = field(default_factory=Shared)

    @property
    def operation(self) -> str:
        """What the jobs of the batch do."""
        return "delete" if self.changes is None else "modify"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A call without problems: its ids (of messages or threads; none for a query) and the bytes of its requests."""

    ids: Sequence[str]
    request: bytes  # of each job of the batch, with its parameters
    query: bytes


def plan_batch(
    call: BulkCall, *, now: Micros, metadata_key: str, most_ids: int | None = None
) -> tuple[Planned, int | None]:
    """The rows of a batch, and the number of its jobs (None: a walk has to find them). Rows of jobs are generated
    while they are read. ``most_ids``: how many ids the ledger takes in one call.

    Raises:
        InvalidJob: lists every problem. An exception that the caller's iterable of ids raises is passed on.
    """
    checked = _checked(call, now=now, metadata_key=metadata_key)
    if most_ids is not None and len(checked.ids) > most_ids:
        field = "message_ids" if call.selection.message_ids is not None else "thread_ids"
        reason = f"has {len(checked.ids):,} ids; a SQLite ledger takes {most_ids:,} in one call, since no other "
        raise InvalidJob(
            [Problem(field, reason + "process can write to it meanwhile", "make several calls, or use PostgreSQL")]
        )
    options = call.options
    batch_id, lane = new_id(), lane_id(options.application, call.grant_id)
    batch = _batch_row(call, checked, batch_id, lane, now=now)
    keys = []
    if options.key is not None:
        keys.append(key_row(options, _digest(call, checked), now=now, batch_id=batch_id))
    wakes = Wakes()
    wakes.add(lane, options, call.grant_id, batch["priority"], opening(options, batch["due_at"]))
    payloads: Sequence[Mapping[str, Any]] = ()
    if batch["walk"] is None:
        operation = "read" if call.undoable else call.operation
        jobs: Iterable[Mapping[str, Any]] = _rows(operation, checked.ids, batch_id, lane, options, now=now)
    else:
        first_pages = _first_pages(call, checked)
        # A walk only reads: it shows what is to be approved.
        of_walk = replace(options, needs_approval=False)
        listings = list(_rows("list", [None] * len(first_pages), batch_id, lane, of_walk, now=now))
        payloads = [
            {"job_id": row["id"], "body": page, "content_type": QUERY_TYPE}
            for row, page in zip(listings, first_pages, strict=True)
        ]
        jobs = listings
    name = None if options.key is None else (options.application, options.key)
    plan = Plan(jobs=jobs, payloads=payloads, batch=batch, keys=keys, wakes=wakes.rows())
    return Planned(plan, [batch_id], [name]), batch["total"]


def _batch_row(call: BulkCall, checked: _Checked, batch_id: UUID, lane: UUID, *, now: Micros) -> dict[str, Any]:
    options, walk = call.options, _walk(call)
    due_at = first_at(options, now=now)
    batch = {
        "id": batch_id,
        "application": options.application,
        "lane_id": lane,
        "operation": call.operation,
        "target": "thread" if call.whole_threads else "message",
        "hard": call.hard,
        "fields": EVERY_FIELD if call.changes is None else _fields(call.changes),
        "walk": walk,
        "listings": 0 if walk is None else len(checked.ids) or 1,
        "total": len(checked.ids) if walk is None else None,
        "body": checked.request,
        "content_type": JSON_TYPE,
        "created_at": now,
        "priority": priority_of(options),
        "due_at": due_at,
        "expires_at": expiry_of(call.operation, options, opening(options, due_at)),
        "on_outcome": options.on_outcome,
        "key": options.key,
        "tags": stored_tags(options.tags),
        "time_window": None if options.window is None else str(options.window),
    }
    if options.needs_approval:
        batch["needs_approval"] = True
    if call.undoable:
        batch["undoable"] = True
    if (traceparent := options.traceparent or active_traceparent()) is not None:
        batch["traceparent"] = traceparent
    return batch


def _fields(changes: Changes) -> int:
    return bits_of(name for name in BITS if getattr(changes, name) is not None)


def _walk(call: BulkCall) -> str | None:
    if call.selection.by_query:
        return "query"
    return "threads" if call.selection.thread_ids is not None and not call.whole_threads else None


def _first_pages(call: BulkCall, checked: _Checked) -> list[bytes]:
    where, select = call.shared.parameters("shared_from", "shared_folder_id"), SELECTED if call.undoable else "id"
    return [page_query({"thread_id": thread} | where, select=select) for thread in checked.ids] or [checked.query]


def _parameters(call: BulkCall) -> dict[str, str]:
    """The query parameters of the requests that change or delete."""
    shared = call.selection.query.shared if isinstance(call.selection.query, Query) else call.shared
    if call.changes is None:
        return shared.parameters("shared_from")
    if call.whole_threads:
        return shared.parameters("shared_from", "shared_folder_id")
    return shared.parameters("shared_from", "query_imap")


def _rows(
    operation: str, objects: Sequence[str | None], batch_id: UUID, lane: UUID, options: Options, *, now: Micros
) -> Iterator[dict[str, Any]]:
    # Made once: 100,000 rows differ only in id, object and position.
    alike = job_row(
        operation, batch_id, lane, options, now=now, due_at=first_at(options, now=now), position=0,
        tagged=bool(options.tags), windowed=options.window is not None,
    )  # fmt: skip
    alike |= {"batch_id": batch_id, "on_outcome": None, "key": None}
    start = alike["next_at"]
    begins = "next_at"
    if options.needs_approval:
        alike |= approval_columns(alike, options)
        begins = "resume_at"
    for position, object_id in enumerate(objects):
        yield alike | {"id": new_id(), "object_id": object_id, begins: start + position}


def _digest(call: BulkCall, checked: _Checked) -> bytes:
    selected_by = (
        "query" if call.selection.by_query else "threads" if call.selection.thread_ids is not None else "messages"
    )
    how = ["hard"] * call.hard + ["whole"] * call.whole_threads
    options = call.options
    return bulk_digest(
        " ".join([call.operation, selected_by, *how]),
        checked.ids,
        checked.query + b"\n" + checked.request,
        application=options.application,
        grant_id=call.grant_id,
        due_at=options.due_at,
        expires_at=given_expiry(options.expires_at),
    )


@dataclass(frozen=True, slots=True)
class Undo:
    """The undo of a batch of modifications.

    ``lane_id``, ``fields`` and requests (``body``), and the application and the tags in ``options``, are the batch's.
    The key in ``options`` is that of the undo.
    """

    batch_id: UUID
    grant_id: str
    lane_id: UUID
    fields: int
    body: bytes
    message_ids: Sequence[str]
    options: Options


def undo_key_row(application: str, key: str, undoes: UUID, *, now: Micros, batch_id: UUID) -> dict[str, Any]:
    """The row of the key of an undo, ``batch_id``: its content is which batch it undoes."""
    digest = content_digest("undo", application, "", undoes.bytes)
    return key_row(Options(application=application, key=key), digest, now=now, batch_id=batch_id)


def plan_undo(undo: Undo, *, now: Micros) -> Planned:
    """The rows of the batch that undoes another one: a job for each of its messages that were changed."""
    undoing, options = new_id(), undo.options
    wakes = Wakes()
    wakes.add(undo.lane_id, options, undo.grant_id, priority_of(options), now)
    batch = {
        "id": undoing,
        "application": options.application,
        "lane_id": undo.lane_id,
        "operation": "restore",
        "target": "message",
        "hard": False,
        "fields": undo.fields,
        "total": len(undo.message_ids),
        "body": undo.body,
        "content_type": JSON_TYPE,
        "created_at": now,
        "priority": priority_of(options),
        "due_at": now,
        "on_outcome": options.on_outcome,
        "key": options.key,
        "tags": stored_tags(options.tags),
        "undoes": undo.batch_id,
    }
    jobs = _rows("restore", undo.message_ids, undoing, undo.lane_id, options, now=now)
    keys, name = [], None
    if options.key is not None:
        keys = [undo_key_row(options.application, options.key, undo.batch_id, now=now, batch_id=undoing)]
        name = (options.application, options.key)
    return Planned(Plan(jobs=jobs, batch=batch, keys=keys, wakes=wakes.rows()), [undoing], [name])


# --- checks -----------------------------------------------------------------------------------------------------------


def _checked(call: BulkCall, *, now: Micros, metadata_key: str) -> _Checked:
    options, selection, changes = call.options, call.selection, call.changes
    provider = options.provider if isinstance(options.provider, str) else None
    problems = option_problems(call.grant_id, options, now=now) + refused_for_changes(options)
    ids: Sequence[str] = ()
    if selection.by_query:
        problems += check_query(selection.query, provider=provider)
    else:
        ids, found = _ids(selection)
        problems += found
        by_threads = selection.thread_ids is not None
        problems += check_shared(call.shared, provider=provider, needs_folder=by_threads)
        if by_threads and call.shared.query_imap is not None:
            reason = "cannot be used with thread_ids, for which Nylas needs a folder"
            problems.append(Problem("query_imap", reason, "use modify_matching with a Query of thread_id and in_"))
    if changes is not None:
        problems += check_changes(
            unread=changes.unread,
            starred=changes.starred,
            folders=changes.folders,
            metadata=changes.metadata,
            provider=provider,
            metadata_key=metadata_key,
        )
    problems += _flag_problems(call)
    if problems:
        raise InvalidJob(problems)
    request = b"" if changes is None else freeze_changes(
        unread=changes.unread, starred=changes.starred, folders=changes.folders, metadata=changes.metadata
    )  # fmt: skip
    # Not empty even for a deletion without parameters: an empty body means that it was erased.
    request = with_parameters(request, _parameters(call)) or b"\n"
    select = SELECTED if call.undoable else "id"
    query = freeze_query(selection.query, select=select) if isinstance(selection.query, Query) else b""
    return _Checked(ids, request, query)


def _ids(selection: Selection) -> tuple[Sequence[str], list[Problem]]:
    if (selection.message_ids is None) == (selection.thread_ids is None):
        reason = "are both set" if selection.message_ids is not None else "are both missing"
        return (), [Problem("message_ids, thread_ids", reason, "pass exactly one of them")]
    if selection.message_ids is not None:
        return check_ids(selection.message_ids)
    return check_ids(selection.thread_ids, field="thread_ids")


def _flag_problems(call: BulkCall) -> list[Problem]:
    problems = [
        problem
        for name, value in (("whole_threads", call.whole_threads), ("hard", call.hard), ("undoable", call.undoable))
        for problem in check_flag(name, value)
    ]
    if call.whole_threads is True and call.selection.thread_ids is None:
        problems.append(Problem("whole_threads", "is set without thread_ids", "pass thread_ids"))
    if call.whole_threads is True and call.undoable is True:
        reason = "cannot be True for whole threads, whose messages Nylas changes itself"
        problems.append(Problem("undoable", reason, "remove whole_threads, or undoable"))
    if call.whole_threads is True and call.changes is not None and call.changes.metadata is not None:
        reason = "cannot be set on a thread, only on its messages"
        problems.append(Problem("metadata", reason, "remove it or whole_threads"))
    return problems
