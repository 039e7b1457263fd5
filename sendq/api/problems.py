"""Errors as ``application/problem+json`` (RFC 9457), with a problem for every field that is wrong.

No answer and no log line has a body, a subject, an address or a key.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.responses import JSONResponse

from sendq.api.wording import in_json
from sendq.errors import (
    InvalidArgument,
    InvalidJob,
    KeyConflict,
    LaneFull,
    LedgerUnavailable,
    NoRight,
    NotFound,
    NotWaiting,
    Problem,
    Retryable,
    SchemaMismatch,
    SendqError,
    SuppressedRecipients,
    SuppressionListFailed,
    Unreadable,
)

log = logging.getLogger("sendq.api")

MEDIA_TYPE = "application/problem+json"

# Seconds after which a request is worth repeating.
LEDGER_AWAY_S, BUSY_S, TRY_AGAIN_S = 5, 1, 2
LANE_FULL_S = 60  # if the lane has no expected end
LANE_FULL_MOST_S = 3600


class Kind(NamedTuple):
    """One kind of problem; the type is ``urn:sendq:problem:NAME``."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "malformed": Kind(400, "The request cannot be read"),
    "no-token": Kind(401, "No valid token"),
    "not-allowed": Kind(403, "The token does not allow this"),
    "not-found": Kind(404, "Not found"),
    "no-such-method": Kind(405, "This address has no such method"),
    "too-slow": Kind(408, "The request did not arrive in time"),
    "key-conflict": Kind(409, "The key belongs to other content"),
    "not-waiting": Kind(409, "It cannot be changed any more"),
    "content-changed": Kind(409, "The message was replaced"),
    "too-large": Kind(413, "The request is too large"),
    "media-type": Kind(415, "The content type is not supported"),
    "invalid": Kind(422, "The request has problems"),
    "suppressed": Kind(422, "Recipients are on the suppression list"),
    "too-many": Kind(429, "Too many requests"),
    "lane-full": Kind(429, "Too many jobs wait for this grant"),
    "failed": Kind(500, "The server failed"),
    "no-right": Kind(500, "The database does not allow this"),
    "unreadable": Kind(500, "Stored content cannot be decrypted"),
    "unavailable": Kind(503, "Not available now"),
}


KEY_CONFLICT = "The key was used before, with different content. Use a new key for new content."


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        problems: Sequence[Problem] = (),
        again_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """``again_s``: the client may try again after so many seconds; ``more``: further members of the answer."""
        super().__init__(kind)
        self.kind, self.detail, self.problems, self.more = kind, detail, problems, more
        self.headers = dict(headers or {})
        if again_s is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(again_s)))

    def answer(self) -> JSONResponse:
        """The answer."""
        known = KINDS[self.kind]
        content: dict[str, Any] = {
            "type": f"urn:sendq:problem:{self.kind}",
            "title": known.title,
            "status": known.status,
            "detail": self.detail,
        }
        if self.problems:
            named = [asdict(in_json(one)) for one in self.problems]
            content["problems"] = named
        return Answer(content | self.more, known.status, headers=self.headers, media_type=MEDIA_TYPE)


class Answer(JSONResponse):
    """JSON in ASCII: a field of a problem may contain half of a character, which UTF-8 does not have."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def refusal(error: SendqError, *, enqueues: bool = True) -> Refused:
    """What an error of the queue means to a client. ``enqueues``: whether the request would have made jobs."""
    if isinstance(error, InvalidJob):
        kind = "suppressed" if isinstance(error, SuppressedRecipients) else "invalid"
        return Refused(kind, f"Nothing was {'enqueued' if enqueues else 'changed'}.", problems=error.problems)
    if isinstance(error, InvalidArgument):
        return Refused("invalid", "Nothing was changed.", problems=error.problems)
    if isinstance(error, NotFound):
        return Refused("not-found", "There is no such job, batch or key.")
    if isinstance(error, KeyConflict):
        return Refused("key-conflict", KEY_CONFLICT)  # without the id: see `sending.conflicting`
    if isinstance(error, NotWaiting) and error.content_version is not None:
        detail = "The message was replaced since: read it again, and send its content version."
        return Refused("content-changed", detail, id=error.id, content_version=error.content_version)
    if isinstance(error, NotWaiting):
        return Refused(
            "not-waiting", "Nothing was changed; `state` has its present state.", id=error.id, state=error.state
        )
    if isinstance(error, LaneFull):
        return _lane_full(error)
    return _of_the_server(error)


def _lane_full(error: LaneFull) -> Refused:
    wait_s = LANE_FULL_S
    if error.eta is not None:
        wait_s = max(1, min(LANE_FULL_MOST_S, math.ceil((error.eta - datetime.now(UTC)).total_seconds())))
    detail = f"{error.waiting} jobs of this grant wait, and {error.cap} are allowed. Nothing was enqueued."
    return Refused("lane-full", detail, again_s=wait_s)


def _of_the_server(error: SendqError) -> Refused:
    """What only an operator can mend is explained in the log, and not to clients."""
    if isinstance(error, Retryable):
        return Refused("unavailable", "The ledger is busy. Nothing was stored. Try again.", again_s=BUSY_S)
    log.error("a request failed: %s", error)
    if isinstance(error, NoRight):
        detail = "Nothing was changed: the server's role in the database may not do this. Its log says what is needed."
        return Refused("no-right", detail)
    if isinstance(error, LedgerUnavailable | SchemaMismatch):
        detail = (
            "The ledger cannot be used. If the connection was lost during the commit, the request may have been "
            "stored: repeat it with the same key."
        )
        return Refused("unavailable", detail, again_s=LEDGER_AWAY_S)
    if isinstance(error, SuppressionListFailed):
        detail = "The suppression list did not answer. Nothing was stored. Try again."
        return Refused("unavailable", detail, again_s=LEDGER_AWAY_S)
    if isinstance(error, Unreadable):
        return Refused("unreadable", "Nothing was stored. The server's log says why.")
    return Refused("failed", "The server's log says why.")
