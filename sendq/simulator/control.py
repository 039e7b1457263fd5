"""The simulator's own endpoints, under ``/_simulator/``, for inspecting and scripting it from another process.

    GET  /_simulator/            counts: requests, in_flight, coming_in, accepted, modified, by_status, by_fault …
    GET  /_simulator/requests    every request (``?since=N`` leaves out the first N)
    GET  /_simulator/mailbox     every accepted message (``?since=N`` likewise)
    POST /_simulator/faults      {"fault": name or object, "grant"?, "operation"?, "times"?, "probability"?}
    POST /_simulator/grants      {"id", "provider"?, "email"?, "status"?}
    POST /_simulator/reset

They require no key: the simulator is for tests, and by default listens on the loopback address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from sendq.simulator import checks
from sendq.simulator.answers import Answer, Refusal, encode, error_body, invalid, not_found
from sendq.simulator.faults import Fault, FaultBook, Script
from sendq.simulator.store import Request, Store

PREFIX = "/_simulator/"


class Control:
    """Answers the requests below `PREFIX`; these are not part of the log."""

    def __init__(self, store: Store, faults: FaultBook, reset: Callable[[], None]) -> None:
        self._store, self._faults, self._reset = store, faults, reset

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        name, _, query = path.removeprefix(PREFIX).partition("?")
        try:
            since = int(parse_qs(query).get("since", ["0"])[-1])
            value = self._dispatch(f"{method} {name}", since, body)
        except Refusal as refusal:
            return refusal.answer("control")
        except ValueError as error:
            return Answer(400, error_body("control", "invalid_request_error", str(error)), "control")
        return Answer(200, encode(value), "control")

    def _dispatch(self, asked: str, since: int, body: bytes) -> Any:
        match asked:
            case "GET ":
                return self._summary()
            case "GET requests":
                with self._store.changed:
                    return [_request(request) for request in self._store.requests[since:]]
            case "GET mailbox":
                with self._store.changed:
                    return [asdict(accepted) for accepted in self._store.mailbox[since:]]
            case "POST faults":
                return self._add_fault(checks.json_object(body))
            case "POST grants":
                return self._put_grant(checks.json_object(body))
            case "POST reset":
                self._reset()
                return self._summary()
        raise not_found()

    def _summary(self) -> dict[str, Any]:
        with self._store.changed:
            requests = self._store.requests
            return {
                "requests": len(requests),
                "in_flight": sum(request.done_at is None for request in requests),
                "coming_in": self._store.coming_in,
                "received": self._store.received,
                "broken_off": self._store.broken_off,
                "accepted": len(self._store.mailbox),
                "modified": len(self._store.modified),
                "grants": len(self._store.grants),
                "faults_waiting": self._faults.waiting,
                "replayed": sum(request.replayed for request in requests),
                "by_status": Counter(str(request.status) for request in requests if request.done_at is not None),
                "by_operation": Counter(request.operation for request in requests),
                "by_fault": Counter(request.fault for request in requests if request.fault),
            }

    def _add_fault(self, given: dict[str, Any]) -> dict[str, Any]:
        unknown = given.keys() - {"fault", "grant", "operation", "times", "probability"}
        probability, times = given.get("probability", 1.0), given.get("times", 1)
        if unknown or "fault" not in given or not isinstance(probability, int | float):
            raise invalid("a fault is given as {fault, grant?, operation?, times?, probability?}")
        if times is not None and not isinstance(times, int):
            raise invalid("times: must be a whole number, or null for good")
        if probability < 1 and "times" not in given:
            times = None  # random faults stay active
        fault = Fault.from_json(given["fault"])
        with self._store.changed:
            self._faults.add(Script(fault, given.get("grant"), given.get("operation"), times, probability))
        return {"faults_waiting": self._faults.waiting}

    def _put_grant(self, given: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(given.get("id"), str) or given.keys() - {"id", "provider", "email", "status"}:
            raise invalid("a grant is given as {id, provider?, email?, status?}")
        grant = self._store.put_grant(given["id"], given.get("provider"), given.get("email"), given.get("status"))
        return grant.document()


def _request(request: Request) -> dict[str, Any]:
    return {**asdict(request), "body": request.body.decode("utf-8", "replace")}
