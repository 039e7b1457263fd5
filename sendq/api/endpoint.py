"""From a request to an answer: whose token it is, what it may, its body, the operation in a thread, and errors."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sendq.api.bodies import CLOSE, FORM_TYPE, JSON_TYPE, Gone, Incoming
from sendq.api.forms import Form, form_of
from sendq.api.limits import BodyMemory, FailedLogins, Rate, Turns
from sendq.api.operation import Asked, Operation, Result
from sendq.api.problems import Answer, Refused, refusal
from sendq.api.tokens import Access, Token, TokenFile, TokenFileError
from sendq.enqueueing.tracing import check_traceparent
from sendq.errors import Problem, Retryable, SendqError
from sendq.queue import SendQueue
from sendq.web.proxies import Proxies

log = logging.getLogger("sendq.api")

# Operations at once: each has a connection to the ledger, of which the pool has no more.
AT_ONCE = 15
# Of these, those that write, so that reads find a thread; and those of one token.
WRITES_AT_ONCE, EACH_AT_ONCE = 11, 6
TURN_S = 10.0  # how long a request waits for its turn

# How often an operation is run whose transaction the database aborted.
RUNS_MOST = 3

_bearer = re.compile(r"bearer +([!-~]{1,200}) *", re.I).fullmatch
_key = re.compile(r"[ -~]*").fullmatch

ALWAYS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(slots=True)
class Desk:
    """What all endpoints share."""

    queue: SendQueue
    tokens: TokenFile
    rate: Rate
    failed: FailedLogins
    proxies: Proxies
    memory: BodyMemory
    turns: Turns


class Endpoint:
    """One address with its methods."""

    def __init__(self, desk: Desk, operations: Mapping[str, Operation]) -> None:
        self._desk, self._operations = desk, operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        incoming = Incoming(request, self._desk.memory)
        operation = self._operations.get("GET" if request.method == "HEAD" else request.method)
        try:
            response = await self._answered(request, incoming, operation)
        except Gone:
            return
        except Refused as refused:
            response = refused.answer()
        except SendqError as error:
            response = refusal(error, enqueues=operation is not None and operation.enqueues).answer()
        except Exception as error:
            response = failure(error)
        finally:
            incoming.release()
        for name, value in ALWAYS.items():
            response.headers[name] = value
        await response(scope, receive, send)

    async def _answered(self, request: Request, incoming: Incoming, operation: Operation | None) -> Response:
        if operation is None:
            allowed = ", ".join(sorted(self._operations))
            raise Refused("no-such-method", f"This address allows {allowed}.", headers={"allow": allowed})
        token = self._token(request)
        if wait_s := self._desk.rate.take(token.id):
            raise Refused("too-many", "The token has exceeded its request rate.", again_s=wait_s, headers=CLOSE)
        if operation.access is Access.WRITE and token.access is not Access.WRITE:
            raise Refused("not-allowed", "The token is for reading only.")
        key = _key_of(request, operation)
        incoming.token_id = token.id
        form, given = None, None
        if operation.form and incoming.media_type == FORM_TYPE:
            form = await form_of(incoming)
            given = form.given
        elif operation.body is not None:
            if operation.form and incoming.media_type != JSON_TYPE:
                incoming.require(JSON_TYPE, FORM_TYPE, most=0)
            given = await incoming.json(optional=operation.optional)
        try:
            asked = self._asked(request, token, key, given, form)
            return await self._run(operation, asked, request, large=incoming.is_large)
        finally:
            if form is not None:
                await form.data.close()

    def _asked(self, request: Request, token: Token, key: str | None, given: object, form: Form | None) -> Asked:
        traceparent = request.headers.get("traceparent")
        return Asked(
            queue=self._desk.queue,
            token=token,
            values=request.path_params,
            query=tuple(request.query_params.multi_items()),
            given=given,
            form=form,
            key=key,
            traceparent=None if check_traceparent(traceparent) else traceparent,  # as W3C says about an invalid one
        )

    async def _run(self, operation: Operation, asked: Asked, request: Request, *, large: bool) -> Response:
        def run() -> Result:
            for _ in range(RUNS_MOST - 1):
                try:
                    return operation.run(asked)
                except Retryable:
                    continue
            return operation.run(asked)

        def answer() -> Response:  # in the thread as well: the JSON of thousands of jobs takes a while
            result, headers = run(), {}
            if result.location is not None:
                headers["location"] = request.scope.get("root_path", "") + result.location
            return Answer(result.content, result.status, headers=headers)

        writes = operation.access is Access.WRITE
        async with self._desk.turns.turn(asked.token.id, writes=writes, large=large):
            return await to_thread.run_sync(answer)

    def _token(self, request: Request) -> Token:
        """The token of a request. Raises `Refused`."""
        given = _bearer(request.headers.get("authorization", ""))
        try:
            token = self._desk.tokens.find(given[1] if given is not None else "")
        except TokenFileError as error:
            log.error("no token is accepted: %s", error)
            raise Refused("unavailable", "Tokens cannot be checked now.", again_s=60, headers=CLOSE) from None
        if token is not None and not token.has_expired(datetime.now(UTC)):
            return token
        address = self._desk.proxies.client_of(request)
        if wait_s := self._desk.failed.count(address):
            if self._desk.failed.is_news(address, limited=True):
                log.warning("too many requests without a valid token from %s", address)
            detail = "Too many requests without a valid token came from this address."
            raise Refused("too-many", detail, again_s=wait_s, headers=CLOSE)
        if self._desk.failed.is_news(address, limited=False):
            log.warning("requests without a valid token from %s", address)
        detail = "The token has expired." if token is not None else "Send `Authorization: Bearer TOKEN`."
        raise Refused("no-token", detail, headers={"www-authenticate": 'Bearer realm="sendq"'} | CLOSE)


def failure(error: Exception) -> Response:
    """The answer to a request that failed because of a bug. The log has where, but no values."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-5:]))
    log.error("a request failed: %s in %s", type(error).__name__, where)
    return Refused("failed", "The server failed. Its log says where.").answer()


def _key_of(request: Request, operation: Operation) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    field, refused = "Idempotency-Key", ""
    if operation.body == "Sends":
        refused, remedy = "does not fit a request with many messages", "give each message a `key`"
    elif not operation.keyed and operation.access is Access.WRITE:
        refused, remedy = "has no effect on this request", "leave it out: a repeat of the request changes nothing more"
    elif len(keys) > 1:
        refused, remedy = "is given twice", "give it once"
    elif not keys[0] or not _key(keys[0]):
        refused, remedy = "is not 1 to 255 printable ASCII characters", "send any other key as `key` in the body"
    if refused:
        raise Refused("invalid", "Nothing was enqueued or changed.", problems=[Problem(field, refused, remedy)])
    return keys[0] if operation.keyed else None
