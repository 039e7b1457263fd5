"""The API over a ledger on SQLite (it has no SQL: that is tested on both databases), and clients with tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from sendq import SendQueue, clock
from sendq.api import Access, add_token, api, new_token
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Engines, Ledger

MESSAGE = {"to": ["leyah@example.com"], "subject": "Invoice 42", "body": "<p>42</p>"}


@dataclass
class Client:
    """Requests with one token."""

    application: Starlette
    token: str | None
    peer: str = "127.0.0.1"

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.request("GET", path, b"", **headers)

    def post(self, path: str, given: Any = None, **headers: str) -> Answer:
        """POST of JSON; None: without a body."""
        if given is None:
            return self.request("POST", path, b"", **headers)
        body = given if isinstance(given, bytes) else json.dumps(given).encode()
        return self.request("POST", path, body, **({"content_type": "application/json"} | headers))

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Any request; with the length of its body."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("authorization", f"Bearer {self.token}")
        if body:
            sent.setdefault("content-length", str(len(body)))
        return Browser(self.application, peer=self.peer).request(method, path, body, sent)


def told(answer: Answer) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.body)


def fields_of(answer: Answer) -> list[str]:
    """The fields of its problems."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return [one["field"] for one in told(answer)["problems"]]


@pytest.fixture
def kept(sqlite_ledger_url: str, engines: Engines) -> Iterator[Ledger]:
    """A ledger whose clock is the real one."""
    with engines.of(sqlite_ledger_url) as engine:
        ledger = Ledger(engine)
        ledger.clock.at = clock.now()
        yield ledger


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """The token file."""
    path = tmp_path / "tokens"
    path.touch()
    return path


@pytest.fixture
def application(kept: Ledger, tokens: Path) -> Starlette:
    """The API."""
    return api(SendQueue(kept.engine), tokens=tokens, rate=100_000)  # a quick machine makes more than 100 a second


@pytest.fixture
def client_of(application: Starlette, tokens: Path) -> Callable[..., Client]:
    """Makes a client with a new token."""

    def make(name: str = "shop", access: Access = Access.WRITE, **scope: Any) -> Client:
        token, text = new_token(name, access=access, now=datetime.now(UTC), **scope)
        add_token(tokens, token)
        return Client(application, text)

    return make


@pytest.fixture
def client(client_of: Callable[..., Client]) -> Client:
    """One that may do everything in its application."""
    return client_of()
