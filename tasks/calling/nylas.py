"""The Nylas client: makes one attempt and returns an `Answer`, without judging it.

It does not retry or follow redirects: the policy is the only layer of retries. Errors of the network or the API are
never raised (cancellation is); a call without a status has a *fault* instead, which answers the one question that
matters: could the API have received the request?

    not sent     ``dns``, ``connect`` (refused, or not within 10 s), ``tls``, ``key`` (the API key cannot be read),
                 ``local``, ``incomplete`` (it broke off before the last byte of the request), ``unreadable`` (its files
                 cannot be read)
    maybe sent   ``timeout`` (no answer within 150 s), ``reset`` (the connection broke), ``cut`` (the answer broke off)

Connections are kept alive and belong to one event loop: make one client per loop and close it there. TLS is verified.
Facts: Nylas, "Send email" (the call blocks until the provider answers; up to two minutes for self-hosted Exchange) and
"Errors" (a request is ended after 90 s).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from tasks.calling.upload import Upload
from tasks.policy.body import JSON_BYTES
from tasks.policy.failure import FAULTS_MAYBE_SENT, Answer

JSON_TYPE = "application/json"
USER_AGENT = "sendq/0.1.0"

CONNECT_S = 10.0  # TCP and TLS together; the API answers a handshake in a tenth of a second
# Not shorter than the API's own timeout (90 s, 120 s or 150 s, depending on the page): otherwise real answers would be
# lost, and sends would be in doubt for no reason.
READ_S = 150.0

# Bytes per second of the slowest uplink that is still worth waiting for: a call may take longer by the time that its
# body takes at this rate (the time for an answer counts from the last byte).
SLOWEST_UPLOAD = 100_000

# An idle connection is closed before the other side closes it: a request sent at that moment would end with an unknown
# outcome, which is costly for a send. The shortest idle timeout of common servers and load balancers is 5 s (Node). A
# busy worker reuses its connections within milliseconds, so this costs a handshake only after a pause.
IDLE_S = 4.0

ERROR_BYTES = 256 * 1024  # limit for an error; a success may be as large as a message


class Application(Protocol):
    """What the client needs to know about a Nylas application."""

    @property
    def api_uri(self) -> str:
        """The base URL (``https://api.us.nylas.com``); a trailing slash or ``/v3`` is tolerated."""

    def api_key(self) -> str:
        """The key, read again for each call so that a corrected one needs no restart."""


class NylasClient:
    """Calls of one event loop. Use as an async context manager, or call `close`.

    ``limit`` is the maximum number of open connections. ``tls`` replaces the default verification (a private CA).
    ``on_date`` is called with the ``Date`` header of each answer.
    """

    def __init__(
        self,
        *,
        limit: int = 100,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        tls: ssl.SSLContext | None = None,
        on_date: Callable[[str], None] | None = None,
    ) -> None:
        self._limit, self._connect_s, self._read_s, self._tls = limit, connect_s, read_s, tls
        self._quick = self._timeout(0)
        self._on_date = on_date
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; a later call would open new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def send(
        self,
        application: Application,
        grant_id: str,
        body: bytes | Upload,
        key: str,
        *,
        content_type: str = JSON_TYPE,
        mime: bool = False,
    ) -> Answer:
        """POST a message: ``body`` and ``content_type`` as frozen, ``key`` the idempotency key with its generation.

        ``mime``: the body is a complete MIME message in the form of `sendq.messages.wire_format`.
        """
        path = f"/v3/grants/{_part(grant_id)}/messages/send" + ("?type=mime" if mime else "")
        headers = {"Idempotency-Key": key}
        return await self._call("POST", application, path, body=body, content_type=content_type, headers=headers)

    async def modify(
        self, application: Application, grant_id: str, message_id: str, body: bytes, *, parameters: str = ""
    ) -> Answer:
        """PUT changes to one message. Ids of IMAP messages contain ``<>@/+``, all of which is encoded.

        ``parameters``: a query string as stored, of this and the next two requests (``shared_from=…``).
        """
        path = f"/v3/grants/{_part(grant_id)}/messages/{_part(message_id)}"
        return await self._call("PUT", application, _with(path, parameters), body=body)

    async def modify_thread(
        self, application: Application, grant_id: str, thread_id: str, body: bytes, *, parameters: str = ""
    ) -> Answer:
        """PUT changes to a whole thread: the API applies them to its messages."""
        path = f"/v3/grants/{_part(grant_id)}/threads/{_part(thread_id)}"
        return await self._call("PUT", application, _with(path, parameters), body=body)

    async def delete(
        self, application: Application, grant_id: str, message_id: str, *, hard: bool, parameters: str = ""
    ) -> Answer:
        """DELETE one message: move it to the trash, or delete it permanently (``hard``)."""
        path = f"/v3/grants/{_part(grant_id)}/messages/{_part(message_id)}"
        return await self._call("DELETE", application, _with(path, "hard_delete=true" if hard else "", parameters))

    async def grant(self, application: Application, grant_id: str) -> Answer:
        """GET the grant itself (``data.grant_status`` is ``valid`` or ``invalid``)."""
        return await self._call("GET", application, f"/v3/grants/{_part(grant_id)}")

    async def folder(self, application: Application, grant_id: str, folder_id: str) -> Answer:
        """GET one folder (``data.attributes`` says which system folder it is, if any)."""
        return await self._call("GET", application, f"/v3/grants/{_part(grant_id)}/folders/{_part(folder_id)}")

    async def find(self, application: Application, grant_id: str, query: Mapping[str, str]) -> Answer:
        """GET the grant's messages that match ``query`` (``metadata_pair``, ``limit``, ``select`` and the like)."""
        path = f"/v3/grants/{_part(grant_id)}/messages?{urlencode(query, quote_via=quote)}"
        return await self._call("GET", application, path)

    async def message(
        self, application: Application, grant_id: str, message_id: str, query: Mapping[str, str]
    ) -> Answer:
        """GET one message."""
        path = f"/v3/grants/{_part(grant_id)}/messages/{_part(message_id)}?{urlencode(query, quote_via=quote)}"
        return await self._call("GET", application, path)

    async def send_events(self, application: Application, query: Mapping[str, str]) -> Answer:
        """GET a page of what became of Agent Accounts' mail, of all grants of the application, the newest first."""
        return await self._call("GET", application, f"/v3/activity/send?{urlencode(query, quote_via=quote)}")

    async def _call(
        self,
        method: str,
        application: Application,
        path: str,
        *,
        body: bytes | Upload | None = None,
        content_type: str = JSON_TYPE,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            key = application.api_key().strip()
        except (OSError, ValueError):
            key = ""
        if not (key.isascii() and key.isprintable() and key):
            return _fault("key")
        sent_headers = {"Authorization": f"Bearer {key}", **(headers or {})}
        if body is not None:
            # Exactly this: the API does not accept `application/json; charset=utf-8` as JSON.
            sent_headers["Content-Type"] = content_type
        upload = body if isinstance(body, Upload) else None
        if upload is not None:
            sent_headers["Content-Length"] = str(upload.length)
        try:
            # An id "." or ".." would make it another request, however it is quoted: "DELETE /messages/..".
            if not {".", ".."}.isdisjoint(path.partition("?")[0].split("/")):
                return _fault("local")
            url = URL(_base(application.api_uri) + path, encoded=True)
        except ValueError:
            return _fault("local")
        try:
            async with self._opened().request(
                method,
                url,
                data=body if upload is None else upload.body(),
                headers=sent_headers,
                allow_redirects=False,
                timeout=self._quick if upload is None else self._timeout(upload.length),
            ) as response:
                if self._on_date is not None and (date := response.headers.get("Date")):
                    self._on_date(date)
                return await _read(response)
        except Exception as error:  # the caller always gets an answer; unclear cases count as "maybe sent"
            fault = _fault_of(error)
            if upload is not None and not upload.complete and fault in FAULTS_MAYBE_SENT:
                fault = upload.trouble
            return _fault(fault)

    def _timeout(self, length: int) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=self._connect_s + self._read_s + length / SLOWEST_UPLOAD,
            connect=self._connect_s,
            sock_connect=self._connect_s,
            sock_read=self._read_s,
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._limit, keepalive_timeout=IDLE_S, ssl=self._tls if self._tls is not None else True
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._quick,
                # Uncompressed: the answers are small, and decompression would cost more CPU than it saves.
                headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            # By default aiohttp repeats GET and PUT once when a kept-alive connection turns out to be closed: a
            # second layer of retries, with a request that the ledger does not know about.
            self._session._retry_connection = False
        return self._session


@lru_cache(maxsize=64)
def _base(api_uri: str) -> str:
    """The base URL to which paths are appended (``//v3`` is a 404). Raises `ValueError` if it is not a URL."""
    base = api_uri.strip().rstrip("/").removesuffix("/v3").rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # a port over 65535 raises
        raise ValueError("the API URI is no http(s) URL")
    return base


def _part(value: str) -> str:
    return quote(value, safe="")


def _with(path: str, *parameters: str) -> str:
    query = "&".join(filter(None, parameters))
    return f"{path}?{query}" if query else path


async def _read(response: aiohttp.ClientResponse) -> Answer:
    """The head, and the body up to its limit. If the body breaks off, the status is kept."""
    limit = JSON_BYTES if response.status < 300 else ERROR_BYTES
    headers = {name.lower(): value for name, value in response.headers.items()}
    chunks: list[bytes] = []
    size, fault = 0, None
    try:
        content = response.content
        while not content.at_eof():  # short answers come with their head, and take one read
            chunk = await content.readany()
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                response.close()  # cheaper than reading the rest, which is not used
                break
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()
        fault = "cut"
    return Answer(response.status, headers, b"".join(chunks), fault)


def _fault(name: str) -> Answer:
    return Answer(None, {}, b"", name)


def _fault_of(error: Exception) -> str:
    """Which fault an exception is. Everything under ``ClientConnectorError`` happens before the request is written."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch() | ssl.SSLCertVerificationError():
            return "tls"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "connect"
        case aiohttp.InvalidURL():
            return "local"
        case asyncio.TimeoutError():
            return "timeout"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "cut"
        case _:
            return "reset"
