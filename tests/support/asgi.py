"""A browser without a window for ASGI applications in this process: cookies, forms, redirects, streams of events."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.waiting import LIMIT_S

Application = Callable[..., Awaitable[None]]


@dataclass
class Answer:
    """One response. ``headers``: by name in lower case; of repeated ones the last, but every cookie in ``cookies``."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def words(self) -> str:
        """What a person reads: without tags, blanks run together."""
        text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", self.text, flags=re.DOTALL)
        return " ".join(html.unescape(text).split())

    def field(self, name: str) -> str:
        """The value of a hidden field of a form."""
        (found,) = set(re.findall(rf'name="{name}" value="([^"]*)"', self.text))
        return html.unescape(found)


class Browser:
    """Requests to one application, with the cookies that it sets."""

    def __init__(self, application: Application, *, host: str = "127.0.0.1", peer: str = "127.0.0.1") -> None:
        self.application, self.host, self.peer = application, host, peer
        self.cookies: dict[str, str] = {}
        self.failure: Exception | None = None
        self.sent_as: dict[str, Any] = {}  # what the ASGI scope of requests has instead
        self.sends_all = True  # False: the body of a request never ends

    def get(self, url: str, **headers: str) -> Answer:
        """GET, without following redirects."""
        return self.request("GET", url, headers=headers)

    def post(self, url: str, form: Mapping[str, str], **headers: str) -> Answer:
        """POST of a form."""
        return self.request("POST", url, urlencode(form).encode(), headers=headers)

    def request(self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request."""
        return asyncio.run(asyncio.wait_for(self.answer_to(method, url, body, headers), LIMIT_S))

    def events(self, url: str, number: int, during: Callable[[int], None] = lambda seen: None) -> list[str]:
        """The first ``number`` events of a stream; ``during`` is called with how many have been seen, after each."""
        return asyncio.run(asyncio.wait_for(self._events(url, number, during), LIMIT_S))

    def scope(self, method: str, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """The ASGI scope of a request."""
        parts = urlsplit(url)
        sent = {"host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": parts.path, "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "client": (self.peer, 50_000), "server": (self.host, 80),
        }  # fmt: skip

    async def answer_to(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, among others at the same time."""
        answer = Answer()
        sent = [{"type": "http.request", "body": body, "more_body": not self.sends_all}]

        async def receive() -> MutableMapping[str, Any]:
            if sent:
                return sent.pop()
            await asyncio.sleep(LIMIT_S)
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                for name, value in message["headers"]:
                    self._take(answer, name.decode().lower(), value.decode())
            else:
                answer.body += message.get("body", b"")

        try:
            await self.application(self.scope(method, url, headers or {}) | self.sent_as, receive, send)
        except Exception as failure:  # servers log it, after the answer has been sent
            if not answer.status:
                raise
            self.failure = failure
        return answer

    async def _events(self, url: str, number: int, during: Callable[[int], None]) -> list[str]:
        events: list[str] = []
        gone = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            text = message.get("body", b"").decode()
            if text.startswith("event:") and not gone.is_set():
                events.append(text)
                await asyncio.to_thread(during, len(events))
            if len(events) >= number:
                gone.set()

        await self.application(self.scope("GET", url, {"accept": "text/event-stream"}), receive, send)
        return events

    def _take(self, answer: Answer, name: str, value: str) -> None:
        answer.headers[name] = value
        if name != "set-cookie":
            return
        answer.cookies.append(value)
        for cookie in SimpleCookie(value).values():
            self.cookies[cookie.key] = cookie.value
            if cookie["max-age"] == "0":
                del self.cookies[cookie.key]
