"""A console over a ledger on SQLite (the console has no SQL: that is tested on both databases), and its browsers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from sendq import Operators, clock
from sendq.console import Person, Role, console, passwords
from tasks.policy.table import POLICY
from tasks.policy.words import words_of
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Engines, Ledger

RULES = words_of(POLICY)
ANNA = Person("anna", Role.OPERATOR)
VERA = Person("vera", Role.VIEWER)


@dataclass
class Seat:
    """Who sits in front of a browser; a test may change it."""

    person: Person | None = ANNA

    def __call__(self, request: Request) -> Person | None:
        return self.person


@pytest.fixture
def kept(sqlite_ledger_url: str, engines: Engines) -> Iterator[Ledger]:
    """A ledger whose clock is the real one, as the console's."""
    with engines.of(sqlite_ledger_url) as engine:
        ledger = Ledger(engine)
        ledger.clock.at = clock.now()
        yield ledger


@pytest.fixture(autouse=True, scope="module")
def cheap() -> Iterator[None]:
    """Hashes of passwords that cost nothing: the real ones take a tenth of a second each, on purpose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "COST", 16)
        yield


@pytest.fixture
def seat() -> Seat:
    """An operator, at first."""
    return Seat()


@pytest.fixture
def application(kept: Ledger, seat: Seat) -> Starlette:
    """The console of an application that knows who asks."""
    return console(
        Operators(kept.engine),
        who=seat,
        rules=RULES,
        reauth_url=lambda application, grant_id: f"https://shop.example/sign-in?grant={grant_id}",
        every_s=0.02,
        queue=kept.queue,
    )


@pytest.fixture
def browser(application: Starlette) -> Browser:
    """Its browser."""
    return Browser(application)


def act(browser: Browser, url: str, **fields: str) -> Answer:
    """Open the page of an act, fill in its form, send it, and follow it to the page of its progress."""
    answer = submit(browser, url, **fields)
    assert answer.status == 303, answer.words
    return browser.get(answer.headers["location"])


def submit(browser: Browser, url: str, **fields: str) -> Answer:
    """Open the page of an act, fill in its form, and send it."""
    page = browser.get(url)
    assert page.status == 200, page.words
    given = {name: page.field(name) for name in ("csrf", "id")} | fields
    for name in (
        "grant",
        "application",
        "provider",
        "rule",
        "job",
        "content",
        "batch",
        "delivery",
        "receiver",
        "state",
        "since",
        "until",
    ):
        if f'type="hidden" name="{name}"' in page.text:
            given[name] = page.field(name)
    return browser.post(url.partition("?")[0], given)
