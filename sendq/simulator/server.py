"""The simulator on a real socket: an aiohttp server in its own thread and event loop.

`Simulator` is the interface for tests; all its attributes may be read from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

try:
    from aiohttp import ClientPayloadError, web
    from aiohttp.web_protocol import RequestHandler
except ImportError as error:
    raise ImportError("the simulator needs aiohttp: pip install 'sendq[simulator]'", name="aiohttp") from error

from sendq.simulator.answers import Answer
from sendq.simulator.api import Api, Behaviour
from sendq.simulator.control import PREFIX, Control
from sendq.simulator.faults import Fault, FaultBook, Script, with_changes
from sendq.simulator.idempotency import Keys
from sendq.simulator.intake import take_in
from sendq.simulator.reports import Reports, Webhook
from sendq.simulator.store import Accepted, Grant, Message, Modified, Notification, Request, Store

STOP_TIMEOUT = 0.05  # seconds for calls under way; longer ones are cut, hanging ones always (0 would mean no limit)
START_TIMEOUT = 10.0  # seconds for the thread to open its socket; it takes milliseconds unless the machine is stuck


class Simulator:
    """A simulator of the Nylas v3 API. As a context manager it runs in a thread; `serve_forever` runs it in this one.

    ``api_key``: the only accepted key. ``port`` 0 picks a free one. ``seed`` is for random faults. ``tls``: a
    server-side context for https. ``clock`` returns the time of day in seconds (for keys, index and dates).
    ``auto_grants``: create unknown grants when first seen, instead of a 404. ``auto_messages``: create an unknown
    message when it is first modified, instead of a 404. ``log_bodies=False`` does not record bodies of requests. The
    other options are those of `Behaviour`; ``behaviour`` changes them while it runs.

    Raises OSError if it cannot listen on the address.
    """

    def __init__(
        self,
        api_key: str = "test-key",
        *,
        latency: float = 0.0,
        port: int = 0,
        host: str = "127.0.0.1",
        seed: int = 0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        auto_grants: bool = True,
        auto_messages: bool = True,
        stores_throttles: bool = True,
        index_delay: float = 0.0,
        index_timeouts: bool = True,
        shifting_pages: bool = False,
        hard_delete: bool = False,
        bytes_per_s: float | None = None,
        log_bodies: bool = True,
    ) -> None:
        self.behaviour = Behaviour(
            api_key, latency, stores_throttles, index_delay, index_timeouts, shifting_pages, hard_delete,
            bytes_per_s=bytes_per_s,
        )  # fmt: skip
        self._host, self._port, self._tls, self._log_bodies = host, port, tls, log_bodies
        self._store = Store(clock=clock, auto_grants=auto_grants, auto_messages=auto_messages)
        self._faults = FaultBook(seed)
        self._keys = Keys()
        self._reports = Reports(clock, self._store.next_id, self._store.notify)
        self._api = Api(self._store, self._faults, self._keys, self._reports, self.behaviour)
        self._control = Control(self._store, self._faults, self.reset)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._gone: dict[object, asyncio.Event] = {}

    # Configuration

    def grant(
        self, grant_id: str, *, provider: str | None = None, email: str | None = None, status: str | None = None
    ) -> Grant:
        """Create a grant (by default ``google`` and ``valid``), or change the given attributes of an existing one.

        Raises ValueError for a provider or status that does not exist.
        """
        return self._store.put_grant(grant_id, provider, email, status)

    def message(
        self, grant_id: str, message_id: str, *, headers: Sequence[Mapping[str, str]] = (), **members: Any
    ) -> Message:
        """Create a message that can be found and modified; ``members`` are those of the API's message object.

        ``headers``: further ones, as ``{"name", "value"}``.
        """
        return self._store.put_message(grant_id, message_id, headers=headers, **members)

    def folder(self, grant_id: str, folder_id: str, attribute: str) -> None:
        """Create a system folder (``\\Drafts``, ``\\Sent`` …) whose id does not say which it is, like Microsoft's."""
        self._store.put_folder(grant_id, folder_id, attribute)

    def will(
        self,
        fault: Fault | str,
        *,
        grant: str | None = None,
        operation: str | None = None,
        times: int | None = 1,
        **changes: Any,
    ) -> None:
        """Script a fault for the next ``times`` matching requests (None: for all). Scripts apply in order.

        ``fault`` may be the name of a magic recipient; ``changes`` override fields of the fault.
        """
        self._add(Script(with_changes(fault, **changes), grant, operation, times))

    def sometimes(
        self,
        probability: float,
        fault: Fault | str,
        *,
        grant: str | None = None,
        operation: str | None = None,
        **changes: Any,
    ) -> None:
        """Make a fault happen at random, with ``probability`` between 0 and 1."""
        self._add(Script(with_changes(fault, **changes), grant, operation, None, probability))

    def webhook(self, url: str, secret: str, *, delay: float = 0.0, again_after: float = 0.2) -> None:
        """Deliver notifications about mail to ``url`` from now on, signed with ``secret`` as Nylas signs them.

        Each is delivered after ``delay`` seconds, at most three times, ``again_after`` seconds apart (the real API:
        minutes). Without a webhook they are only listed in ``notifications``.
        """
        self._reports.webhook = Webhook(url, secret, delay, again_after)

    def answer(self, accepted: Accepted, *, sender: str | None = None) -> Message:
        """Somebody answers an accepted message: its first recipient, or ``sender``. The answer is in its thread.

        If the message was sent with ``tracking_options.thread_replies``, ``thread.replied`` is notified.
        """
        message = self._store.answer(accepted.grant, accepted.id, sender=sender)
        if (accepted.payload.get("tracking_options") or {}).get("thread_replies") and self._loop is not None:
            root = self._store.messages[accepted.grant][accepted.id]
            grant = self._store.put_grant(accepted.grant, None, None, None)
            self._loop.call_soon_threadsafe(self._reports.replied, grant, root, message)
        return message

    def deliver_again(self) -> None:
        """Deliver every notification once more, as Nylas may."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reports.deliver_again, self.notifications)

    @property
    def delivering(self) -> int:
        """How many notifications are on their way to the webhook, or wait for their next attempt."""
        return self._reports.delivering

    def reset(self) -> None:
        """Clear grants, messages, log, mailbox, notifications, faults and keys. Behaviour and addresses stay."""
        with self._store.changed:
            self._store.clear()
            self._faults.clear()
            self._keys.clear()
            self._reports.clear()

    # Inspection

    @property
    def url(self) -> str:
        """Its base URL, without a trailing slash."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order of arrival."""
        with self._store.changed:
            return list(self._store.requests)

    @property
    def mailbox(self) -> list[Accepted]:
        """Every accepted message, in order; one that was sent twice is listed twice."""
        with self._store.changed:
            return list(self._store.mailbox)

    @property
    def notifications(self) -> list[Notification]:
        """Every notification about mail, in order."""
        with self._store.changed:
            return list(self._reports.notifications)

    @property
    def modified(self) -> list[Modified]:
        """Every change that was made to a message, in order."""
        with self._store.changed:
            return list(self._store.modified)

    def wait_for(self, predicate: Callable[[Simulator], Any], timeout: float = 10.0) -> Any:
        """Wait until ``predicate`` of this simulator holds, and return its value.

        It is evaluated after every change, without polling. Raises TimeoutError after ``timeout`` seconds.
        """
        value = self._store.wait_for(lambda: predicate(self), timeout)
        if not value:
            raise TimeoutError(
                f"not within {timeout} s: {len(self.requests)} requests, {len(self.mailbox)} accepted, "
                f"{len(self.modified)} modified"
            )
        return value

    @property
    def received(self) -> int:
        """Bytes of request bodies so far, including requests that are still arriving or were aborted."""
        with self._store.changed:
            return self._store.received

    @property
    def broken_off(self) -> int:
        """Requests whose client disconnected before the end of their body; they are not in ``requests``."""
        with self._store.changed:
            return self._store.broken_off

    # Running

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Open the socket and serve in a thread; returns when requests are answered."""
        if self._thread is not None:
            raise RuntimeError("this simulator is already running")
        ready = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self._run(lambda _: ready.set())
            except BaseException as error:
                failed.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=run, name="nylas-simulator", daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT):
            raise TimeoutError("the simulator did not open its socket")
        if failed:
            self._thread.join()
            self._thread = None
            raise failed[0]
        return self

    def stop(self) -> None:
        """Close every connection and end the thread; `start` continues at the same address with the same data.

        Stopping twice is no error.
        """
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def serve_forever(self, started: Callable[[str], None] | None = None) -> None:
        """Serve in the main thread until SIGINT or SIGTERM; ``started`` is called with the URL once it answers."""
        self._run(started or (lambda url: None), signals=(signal.SIGINT, signal.SIGTERM))

    def _run(self, started: Callable[[str], None], signals: Iterable[signal.Signals] = ()) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve(started, signals))

    async def _serve(self, started: Callable[[str], None], signals: Iterable[signal.Signals]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        for each in signals:
            # Through the loop: an exception from a plain signal handler could surface in the middle of any answer.
            self._loop.add_signal_handler(each, self._stop.set)
        server = _Server(self._handle, self._gone, request_factory=_request, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_TIMEOUT)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port, ssl_context=self._tls, backlog=1024)
            await site.start()
            self._port = runner.addresses[0][1]
            started(self.url)
            await self._stop.wait()
        finally:
            await self._reports.stop()
            await runner.cleanup()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path = http.raw_path
        headers = {name.lower(): value for name, value in http.headers.items()}
        try:
            with self._store.reading():
                body = await take_in(
                    http.content.iter_any(),
                    headers.get("content-type", ""),
                    bytes_per_s=self.behaviour.bytes_per_s,
                    came=self._store.came,
                )
        except (ClientPayloadError, OSError):  # who sent it has gone before its end: to the API it never came
            self._store.broke_off()
            return web.Response()
        if path.startswith(PREFIX):
            return _response(self._control.answer(http.method, path, body.kept))
        request = Request(
            at=time.monotonic(),
            wall=self._store.clock(),
            method=http.method,
            path=path,
            headers=headers,
            body=body.text(),
            size=body.size,
            digest=body.digest,
            files=[part.shown() for part in body.parts],
            malformed=body.malformed,
            request_id=f"5fa64c92-e840-4357-86b9-{self._store.next_id():012x}",
            key=headers.get("idempotency-key"),
        )
        answer = await self._api.serve(request, lambda: self._until_gone(http))
        if not self._log_bodies:
            request.body = b""
        if answer is None:
            if http.transport is not None:
                http.transport.abort()
            return web.Response()
        return _response(answer)

    async def _until_gone(self, http: web.BaseRequest) -> None:
        """Until the client of this request closes its connection; a simulator that stops cancels the wait."""
        if http.transport is None:
            return
        event = self._gone[http.protocol] = asyncio.Event()
        try:
            await event.wait()
        finally:
            del self._gone[http.protocol]

    def _add(self, script: Script) -> None:
        with self._store.changed:
            self._faults.add(script)


class _Server(web.Server):
    """Notifies a waiting handler that its client has disconnected (aiohttp only notifies handlers that it cancels)."""

    def __init__(self, handler: Any, gone: dict[object, asyncio.Event], **options: Any) -> None:
        super().__init__(handler, **options)
        self._gone = gone

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if handler in self._gone:
            self._gone[handler].set()
        super().connection_lost(handler, exc)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, "x-request-id": answer.request_id, **answer.headers}
    return web.Response(body=answer.body, status=answer.status, headers=headers)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop if installed: it nearly doubles the throughput of a core."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
