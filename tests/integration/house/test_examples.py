"""The shops under examples/, used over HTTP: real processes, a real worker, the simulator on a socket.

Each is started by the command of examples/README.md, on another port and another database.
"""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from sqlalchemy import make_url

from sendq import State
from sendq.ledger.db import schema
from sendq.outcomes import sign
from tests.support.flower import child, free_port
from tests.support.servers import PgServer
from tests.support.system import ROOT, System, running
from tests.support.waiting import LIMIT_S, eventually

PAGE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
SECRET = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"


@dataclass(frozen=True)
class Answer:
    """What came back in the end, after redirects."""

    status: int
    url: str
    text: str

    def shown(self, name: str) -> str:
        """The text of the element with this id."""
        found = re.search(rf'<td id="{name}">(.*?)</td>', self.text, re.DOTALL)
        assert found, self.text
        return html.unescape(found[1])


class Shop:
    """One of the shops, and a browser to use it with: cookies, redirects, and whatever hidden fields a form has."""

    def __init__(self, system: System, framework: str, url: str) -> None:
        self.system, self.framework, self.url = system, framework, url
        self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def ask(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """One request; with ``data`` a POST."""
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            with self._browser.open(request, timeout=LIMIT_S) as answer:
                return Answer(answer.status, answer.url, answer.read().decode())
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(refused.code, refused.url, refused.read().decode())

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return self.ask("/").status == 200
        except OSError:
            return False

    def bill(self, number: int, email: str, amount: int = 10) -> Answer:
        """Fill in the form and send it off."""
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', self.ask("/").text))
        fields = {**hidden, "number": number, "email": email, "amount": amount}
        return self.ask("/invoices", urllib.parse.urlencode(fields).encode())

    def invoice(self, number: int) -> Answer:
        """The page of an invoice."""
        return self.ask(f"/invoices/{number}")


def commands(name: str) -> list[list[str]]:
    """The commands of one shop, from its page."""
    (block,) = re.findall(rf"^```sh\n# {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line.removeprefix("./dev ")) for line in block.splitlines() if line.startswith("./dev ")]


@contextmanager
def shop(framework: str, url: str, directory: Path) -> Iterator[Shop]:
    """The system, a worker that tells outcomes, and the shop."""
    port = free_port()
    with running(url, directory) as system, ExitStack() as programs:
        broker = system.redis.url.replace("virtual_host=0", "virtual_host=1")
        system.start_worker(
            SENDQ_OUTCOME_ENDPOINTS=json.dumps({"shop": {"url": f"http://127.0.0.1:{port}/outcomes"}}),
            SENDQ_OUTCOME_SECRET=SECRET,
            SENDQ_OUTCOME_BROKER_URL=broker,
            SENDQ_OUTCOME_TASKS="shop.tasks.*@shop",
        )
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SHOP_DATABASE": database(url, framework),
            "SHOP_GRANT": "the-shops-grant",
            "SHOP_OUTCOME_SECRET": SECRET,
            "SHOP_BROKER": broker,
            "SHOP_SECRET_KEY": "any-secret",
        }
        for number, command in enumerate(commands(framework)):
            argv = [sys.executable, *(str(port) if part == "8000" else part for part in command[1:])]
            if "migrate" in command:
                subprocess.run(argv, env=environ, cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)
            else:
                programs.enter_context(child(argv, environ, directory / f"shop-{number}.log"))
        it = Shop(system, framework, f"http://127.0.0.1:{port}")
        eventually(it.is_up, f"the first page of the shop on {framework}")
        yield it


def database(url: str, framework: str) -> str:
    """The ledger's address with the driver that the framework takes."""
    parsed = make_url(url)
    if framework == "FastAPI":
        driver = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}[parsed.get_backend_name()]
        parsed = parsed.set(drivername=driver)
    return parsed.render_as_string(hide_password=False)


# Each framework and each database once, but for Django, whose connection is joined in a way of its own for each.
SHOPS = [
    ("FastAPI", "postgresql"), ("Flask", "sqlite"), ("Django", "postgresql"),
    pytest.param(("Django", "sqlite"), marks=pytest.mark.long),
]  # fmt: skip


@pytest.fixture(scope="module", params=SHOPS, ids=lambda each: "-".join(each))
def used(
    request: pytest.FixtureRequest, pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    framework, backend = request.param
    directory = tmp_path_factory.mktemp("shop")
    with ExitStack() as stack:
        if backend == "postgresql":
            url = pg_server.url(stack.enter_context(pg_server.database()))
        else:
            url = f"sqlite:///{directory / 'shop.db'}"
        yield stack.enter_context(shop(framework, url, directory))


class TestBilling:
    def test_sends_the_mail_and_shows_its_state_and_what_the_shop_was_told(self, used: Shop) -> None:
        answer = used.bill(1, "leyah@example.com")
        assert (answer.status, answer.url) == (200, f"{used.url}/invoices/1")
        eventually(lambda: used.invoice(1).shown("state") == "sent", "the mail")
        eventually(lambda: used.invoice(1).shown("outcome") == "sent", "the outcome")
        assert used.invoice(1).shown("why") == "the API accepted it"
        assert [one.payload["subject"] for one in used.system.api.mailbox].count("Invoice 1") == 1

    def test_shows_what_was_refused(self, used: Shop) -> None:
        used.bill(2, "refused@example.com")
        eventually(lambda: used.invoice(2).shown("outcome") == "dead", "the outcome")
        assert used.invoice(2).shown("state") == "dead"

    def test_with_a_bad_address_says_so_and_stores_nothing(self, used: Shop) -> None:
        jobs = used.system.count(schema.job)
        answer = used.bill(3, "leyah@")
        assert answer.status == 422
        assert "to[0].email" in answer.text
        assert (used.system.count(schema.job), used.invoice(3).status) == (jobs, 404)

    def test_that_the_database_refuses_loses_the_mail_with_the_invoice(self, used: Shop) -> None:
        jobs = used.system.count(schema.job)
        assert used.bill(4, "leyah@example.com", amount=-1).status == 409
        assert (used.system.count(schema.job), used.invoice(4).status) == (jobs, 404)

    def test_twice_under_one_number_is_refused_and_sends_nothing_more(self, used: Shop) -> None:
        used.bill(5, "leyah@example.com")
        jobs = used.system.count(schema.job)
        assert used.bill(5, "leyah@example.com").status == 409
        assert used.bill(5, "nyah@example.com").status == 409
        assert used.system.count(schema.job) == jobs

    def test_while_the_account_is_throttled_shows_until_when_it_waits(self, used: Shop) -> None:
        going_on = (State.QUEUED, State.SENDING)
        eventually(lambda: not any(used.system.states()[state] for state in going_on), "the end of the others")
        used.system.api.will("throttle", headers={"Retry-After": "4"}, operation="send")
        used.bill(6, "leyah@example.com")
        eventually(lambda: used.invoice(6).shown("why") == "the grant is held", "the hold")
        assert "<th>Until</th>" in used.invoice(6).text
        eventually(lambda: used.invoice(6).shown("outcome") == "sent", "the mail after the hold")


class TestAnOutcome:
    def test_that_somebody_else_signed_is_refused(self, used: Shop) -> None:
        used.bill(7, "leyah@example.com")
        eventually(lambda: used.invoice(7).shown("outcome") == "sent", "the outcome")
        job = used.system.queue.job(key="invoice-7").id
        body = json.dumps({"id": "e", "timestamp": 1, "kind": "dead", "job_id": job, "sequence": 2**60}).encode()
        forged = sign(body, event_id="e", timestamp=1, secret="whsec_" + "QUJD" * 8)
        headers = {"webhook-id": "e", "webhook-timestamp": "1", "webhook-signature": forged}
        told_by_a_task = used.framework == "Django"  # which has no such page at all
        assert used.ask("/outcomes", body, headers).status == (404 if told_by_a_task else 400)
        assert used.invoice(7).shown("outcome") == "sent"


class TestAFormFromElsewhere:
    def test_is_refused_by_django_which_looks(self, used: Shop) -> None:
        stranger = Shop(used.system, used.framework, used.url)
        jobs = used.system.count(schema.job)
        answer = stranger.ask("/invoices", b"number=8&email=leyah@example.com&amount=10")
        refused = used.framework == "Django"
        assert answer.status == (403 if refused else 200)
        assert used.system.count(schema.job) == jobs + (not refused)
