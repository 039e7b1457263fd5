"""The API: from a request to its answer, with the checks in the order of the real one.

    key of the application → path → grant → content → idempotency key → fields → grant still valid? → faults → the act

HTTP is handled by `server`, which reads requests and writes answers. An answer of None means: close the connection
without one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote

from sendq.simulator import answers, checks, listing, send_events
from sendq.simulator.answers import Answer, Refusal, success
from sendq.simulator.faults import Fault, FaultBook
from sendq.simulator.idempotency import Keys
from sendq.simulator.payload import message_of
from sendq.simulator.reports import Reports
from sendq.simulator.store import Grant, Message, Request, Store

# Resolves when the client of this request has gone.
Gone = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Behaviour:
    """Options that can be changed while the simulator runs.

    ``latency``: seconds that every request takes. ``stores_throttles``: whether a 429 is stored under its idempotency
    key like other errors. ``index_delay``: seconds until an accepted message is found by its metadata.
    ``index_timeouts``: whether a message whose answer was lost (timeout, broken connection) is ever found by it.
    ``listing_delay``: seconds until it appears in a listing. ``keeps_headers``: whether custom headers survive the
    provider. The real API's behaviour in these cases is not documented, so clients must handle all of them.
    ``shifting_pages``: whether page tokens are offsets, so that messages that leave a listing shift its later pages.
    ``hard_delete``: whether permanent deletion is enabled in the dashboard.
    ``gate``: a custom limit. It is called for every request before any scripted fault, in order of arrival and in the
    simulator's thread; the fault that it returns is applied.
    ``gates_first``: whether an invalid grant and the ``gate`` refuse a send before its idempotency key is looked up;
    such a refusal is not stored, and a repeat of a request that was answered may meet it.
    ``usage``: the headers in which an answer states how much of the provider's limits the request used, for example
    `sendq.simulator.limits.stated_usage`; called for each request that is carried out.
    ``has_send_events``: whether the application has ``GET /v3/activity/send`` (without it: 404). ``send_events_delay``:
    seconds until the events of an accepted message are listed there.
    ``bytes_per_s``: rate at which the body of a request is read (None: unlimited).
    """

    api_key: str
    latency: float = 0.0
    stores_throttles: bool = True
    index_delay: float = 0.0
    index_timeouts: bool = True
    shifting_pages: bool = False
    hard_delete: bool = False
    listing_delay: float = 0.0
    keeps_headers: bool = True
    gate: Callable[[Request], Fault | None] | None = None
    gates_first: bool = False
    usage: Callable[[Request, Grant], Mapping[str, str]] | None = None
    bytes_per_s: float | None = None
    has_send_events: bool = True
    send_events_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ends on the wire (None: no answer), and what its idempotency key keeps (None: nothing)."""

    answer: Answer | None
    kept: Answer | None
    stuck: bool = False  # the key stays "in progress" for its hour


class Api:
    """Answers requests; used from one event loop."""

    def __init__(self, store: Store, faults: FaultBook, keys: Keys, reports: Reports, behaviour: Behaviour) -> None:
        self._store, self._faults, self._keys, self._reports = store, faults, keys, reports
        self.behaviour = behaviour

    async def serve(self, request: Request, gone: Gone) -> Answer | None:
        """Answer one request and write down how it ended."""
        self._store.opened(request)
        answer: Answer | None = None
        try:
            answer = await self._answer(request, gone)
        except Refusal as refusal:
            answer = refusal.answer(request.request_id)
        finally:
            self._store.closed(request, answer.status if answer else None)
        return answer

    async def _answer(self, request: Request, gone: Gone) -> Answer | None:
        if request.headers.get("authorization") != f"Bearer {self.behaviour.api_key}":
            raise answers.unauthorized_key()
        _route(request)
        if request.grant is None:
            return (await self._carry_out(request, None, gone)).answer
        grant = self._store.find_grant(request.grant)
        if grant is None:
            raise answers.grant_not_found()
        request.grant = grant.id
        if request.operation in _WITH_BODY:
            checks.content(request.headers.get("content-type", ""), request.size)
        if request.operation == "send" and request.key is not None:
            return await self._once(request, grant, request.key, gone)
        return (await self._carry_out(request, grant, gone)).answer

    async def _once(self, request: Request, grant: Grant, key: str, gone: Gone) -> Answer | None:
        """Send under an idempotency key: the first request is carried out, repeats find its answer."""
        if self.behaviour.gates_first:
            fault = self._at_the_gates(request, grant)
            if fault is not None:
                payload = self._payload(request, grant)
                request.job = _job(request, payload)
                return (await self._fail(request, grant, payload, fault, gone)).answer
        entry = self._keys.begin(grant.id, key, request.digest, self._store.clock())
        if entry.answer is not None:
            request.replayed = True
            stored = entry.answer
            replayed = {"Idempotent-Response": "true"}
            return Answer(stored.status, stored.body, stored.request_id, replayed, stored.content_type)
        outcome = Outcome(None, None)
        try:
            outcome = await self._carry_out(request, grant, gone)
        except Refusal as refusal:
            refused = refusal.answer(request.request_id)
            outcome = Outcome(refused, refused)
        finally:
            kept = outcome.kept
            if kept is not None and kept.status == 429 and not self.behaviour.stores_throttles:
                kept = None
            if not outcome.stuck:
                self._keys.settle(grant.id, key, entry, kept)
        return outcome.answer

    async def _carry_out(self, request: Request, grant: Grant | None, gone: Gone) -> Outcome:
        payload = self._payload(request, grant)
        request.job = _job(request, payload)
        if self.behaviour.latency:
            await asyncio.sleep(self.behaviour.latency)
        passed = self.behaviour.gates_first and request.operation == "send" and request.key is not None
        # After the wait: a grant may expire while a call is on its way.
        fault = None if passed else self._at_the_gates(request, grant)
        recipients = [one["email"] for one in payload["to"]] if request.operation == "send" else []
        if fault is None:
            with self._store.changed:
                fault = self._faults.choose(request.grant, request.operation, recipients, request.job)
        if fault is None:
            done = self._act(request, grant, payload, None)
            if self.behaviour.usage and grant is not None:
                done = replace(done, headers={**done.headers, **self.behaviour.usage(request, grant)})
            return Outcome(done, done)
        return await self._fail(request, grant, payload, fault, gone)

    async def _fail(
        self, request: Request, grant: Grant | None, payload: dict[str, Any], fault: Fault, gone: Gone
    ) -> Outcome:
        request.fault = fault.name
        if fault.delay:
            await asyncio.sleep(fault.delay)
        truth = self._act(request, grant, payload, fault) if fault.accepted or fault.ending == "pass" else None
        if fault.expires_grant and grant is not None:
            self._store.put_grant(grant.id, None, None, "invalid")
        if fault.ending == "pass":
            return Outcome(truth, truth)
        answer = fault.answer(request.request_id) if fault.ending == "answer" else None
        if fault.ending == "hang":
            await gone()
        kept = {"answer": answer, "outcome": truth}.get(fault.kept)
        return Outcome(answer, kept, stuck=fault.kept == "stuck")

    def _at_the_gates(self, request: Request, grant: Grant | None) -> Fault | None:
        """The fault of the custom limit, if any. Raises `Refusal` if the grant is invalid."""
        if grant is not None and grant.status != "valid" and request.operation != "grant":
            raise answers.unauthorized_grant()
        return self.behaviour.gate(request) if self.behaviour.gate else None

    def _payload(self, request: Request, grant: Grant | None) -> dict[str, Any]:
        if request.operation == "send":
            query = parse_qs(request.path.partition("?")[2])
            return message_of(request, mime=query.get("type", [""])[-1] == "mime")
        if request.operation not in _CHANGES or grant is None:
            return {}
        if not request.size:
            raise answers.invalid("Empty request body")
        payload = checks.json_object(request.body)
        checks.changes(payload, grant.provider, thread=request.operation == "modify_thread")
        return payload

    def _act(self, request: Request, grant: Grant | None, payload: dict[str, Any], fault: Fault | None) -> Answer:
        """Do what was asked for; the answer the API would give."""
        query = parse_qs(request.path.partition("?")[2], keep_blank_values=True)
        if request.operation == "send_events":
            return self._list_send_events(request, query)
        if grant is None:
            return self._list_grants(request, query)
        match request.operation:
            case "send":
                return self._send(request, grant, payload, query.get("fields", [None])[-1], fault)
            case "list":
                documents, cursor = listing.page(self._store, grant.id, query, shifting=self.behaviour.shifting_pages)
                return success(request.request_id, data=documents, next_cursor=cursor)
            case "grant":
                return success(request.request_id, data=grant.document())
            case "folder":
                return success(request.request_id, data=self._store.folder(grant.id, request.folder_id or ""))
            case "modify_thread":
                return self._modify_thread(request, grant, payload)
        message = self._message(request, grant)
        match request.operation:
            case "modify":
                self._store.modify(grant.id, message, payload)
            case "delete":
                self._delete(grant, message, hard=query.get("hard_delete", ["false"])[-1] == "true")
                return success(request.request_id)
        shown = listing.shown(message, query.get("fields", [None])[-1], query.get("select", [None])[-1])
        return success(request.request_id, data=shown)

    def _send(
        self, request: Request, grant: Grant, payload: dict[str, Any], fields: str | None, fault: Fault | None
    ) -> Answer:
        lost = fault is not None and fault.loses_the_answer and not self.behaviour.index_timeouts
        fails_later = self._reports.fails_later(grant, payload, request.job)
        message = self._store.accept(
            grant,
            payload,
            key=request.key,
            job=request.job,
            fault=fault.name if fault else None,
            index_after=math.inf if lost else self.behaviour.index_delay,
            listed_after=self.behaviour.listing_delay,
            keeps_headers=self.behaviour.keeps_headers,
            goes_out=not fails_later,
        )
        if fails_later:
            self._reports.failed(grant, message)
        else:
            self._reports.accepted(grant, message, shown_at=self._store.clock() + self.behaviour.send_events_delay)
        # The official document shows no metadata in this answer.
        shown = {name: value for name, value in message.document.items() if name != "metadata"}
        if "send_at" in payload:
            # Scheduled: its sample has the times at the top, and neither id nor grant_id in data.
            del shown["id"], shown["grant_id"], shown["thread_id"]
            return success(
                request.request_id,
                status=202,
                grant_id=grant.id,
                schedule_id=f"schedule-{message.number:x}",
                send_at=payload["send_at"],
                use_draft=payload.get("use_draft", False),
                data=shown,
            )
        if fails_later:  # the same object as in a 200, without headers
            return success(request.request_id, status=202, grant_id=grant.id, data=shown)
        headers = listing.header_fields(message, fields)
        if headers is not None:
            shown["headers"] = headers
        return success(request.request_id, grant_id=grant.id, data=shown)

    def _modify_thread(self, request: Request, grant: Grant, payload: dict[str, Any]) -> Answer:
        """What is set on a thread is set on each of its messages."""
        thread_id = request.message_id or ""
        messages = self._store.thread(grant.id, thread_id)
        if not messages:
            raise answers.not_found()
        for message in messages:
            self._store.modify(grant.id, message, payload)
        ids = [message.document["id"] for message in messages]
        shown = {"id": thread_id, "grant_id": grant.id, "object": "thread", "message_ids": ids}
        return success(request.request_id, data=shown | payload)

    def _delete(self, grant: Grant, message: Message, *, hard: bool) -> None:
        if not hard:
            self._store.modify(grant.id, message, {"folders": ["TRASH"]})
        elif self.behaviour.hard_delete:
            self._store.remove(grant.id, message)
        else:
            # How the API says it is not documented.
            raise answers.invalid("hard_delete: is not enabled for this application")

    def _message(self, request: Request, grant: Grant) -> Message:
        message_id = request.message_id or ""
        message = self._store.find_message(grant.id, message_id)
        if message is None and request.operation == "modify" and self._store.auto_messages:
            message = self._store.put_message(grant.id, message_id)
        if message is None:
            raise answers.not_found()
        return message

    def _list_send_events(self, request: Request, query: dict[str, list[str]]) -> Answer:
        if not self.behaviour.has_send_events:
            raise answers.not_found()
        events, cursor = send_events.page(self._reports.events, query, now=self._store.clock())
        return success(request.request_id, data=events, next_cursor=cursor)

    def _list_grants(self, request: Request, query: dict[str, list[str]]) -> Answer:
        try:
            limit, offset = (
                int(query.get(name, [default])[-1]) for name, default in (("limit", "10"), ("offset", "0"))
            )
        except ValueError:
            raise answers.invalid("limit, offset: must be whole numbers", "invalid_query_params") from None
        with self._store.changed:
            documents = [grant.document() for grant in self._store.grants.values()]
        wanted = documents[offset : offset + limit]
        return success(request.request_id, data=wanted, limit=limit, offset=offset)


_CHANGES = ("modify", "modify_thread")
_WITH_BODY = ("send", *_CHANGES)
_ON_MESSAGE = {"GET": "get", "PUT": "modify", "DELETE": "delete"}


def _route(request: Request) -> None:
    """Set operation, grant and message of a request; raises `Refusal` (404) for a path or method that is not there.

    Works on the path as it came: only so can an encoded ``/`` inside a message id be told from a separator.
    """
    match request.path.partition("?")[0].split("/"):
        case ["", "v3", "grants"] if request.method == "GET":
            request.operation = "grants"
        case ["", "v3", "activity", "send"] if request.method == "GET":
            request.operation = "send_events"
        case ["", "v3", "grants", grant] if request.method == "GET" and grant:
            request.operation, request.grant = "grant", unquote(grant)
        case ["", "v3", "grants", grant, "folders", folder] if request.method == "GET" and folder:
            request.operation, request.grant, request.folder_id = "folder", unquote(grant), unquote(folder)
        case ["", "v3", "grants", grant, "messages"] if request.method == "GET":
            request.operation, request.grant = "list", unquote(grant)
        case ["", "v3", "grants", grant, "messages", "send"] if request.method == "POST":
            request.operation, request.grant = "send", unquote(grant)
        case ["", "v3", "grants", grant, "messages", message] if request.method in _ON_MESSAGE and message:
            request.operation, request.grant = _ON_MESSAGE[request.method], unquote(grant)
            request.message_id = unquote(message)
        case ["", "v3", "grants", grant, "threads", thread] if request.method == "PUT" and thread:
            request.operation, request.grant = "modify_thread", unquote(grant)
            request.message_id = unquote(thread)
        case _:
            raise answers.not_found()


def _job(request: Request, payload: dict[str, Any]) -> str | None:
    for header in payload.get("custom_headers", ()):
        if header["name"].lower() == "x-sendq-job":
            return str(header["value"])
    return payload.get("metadata", {}).get("key1") or request.headers.get("x-sendq-job")
