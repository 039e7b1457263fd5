"""The console, as a person uses it: every page and act by mouse and keyboard, on a desk and on a phone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect

from sendq import Operators, clock
from sendq.clock import Micros
from sendq.console import PasswordFile, Role, console, password_line
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine, writing
from tasks.policy.table import POLICY
from tasks.policy.words import words_of
from tests.support.ledger import Ledger
from tests.support.populated import HELD_RULE, populate
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S, eventually
from worker.processes.listening import listening

PASSWORD = "correct horse"
HELD = 1_000
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
PAGES = (
    "/",
    "/accounts?state=held",
    "/jobs",
    "/dead",
    "/batches",
    "/doubts",
    "/outcomes",
    "/suppressions",
    "/journal",
    "/search?q=x",
)
PICTURE_BYTES = 120_000


@dataclass
class Served:
    """A console on a socket."""

    url: str
    ledger: Ledger
    end_streams: Callable[[], None]
    made_at: Micros = field(default_factory=clock.now)

    def hold_again(self) -> None:
        """Let the holds last as long as when the ledger was made: on a slow machine they are over by now."""
        lane = schema.lane.c
        longer = clock.now() - self.made_at
        with writing(self.ledger.engine) as connection:
            held = schema.lane.update().where(lane.held_since.is_not(None), lane.held_rule == HELD_RULE)
            connection.execute(held.values(held_since=lane.held_since + longer, held_until=lane.held_until + longer))
        self.made_at += longer


@pytest.fixture(scope="module")
def served(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with two people over a ledger in which a thousand grants are held."""
    passwords = tmp_path_factory.mktemp("console") / "passwords"
    lines = (password_line("anna", PASSWORD, Role.OPERATOR), password_line("vera", PASSWORD))
    passwords.write_text("\n".join(lines))
    with pg_server.ledger() as url, listening("127.0.0.1", 0) as listener:
        engine = open_engine(url)
        with writing(engine) as connection:
            populate(connection, grants=HELD + 1_000, jobs=8_000, held=HELD, now=clock.now())
        application = console(Operators(engine), who=PasswordFile(passwords), rules=words_of(POLICY), every_s=0.5)
        config = uvicorn.Config(application, log_config=None, ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started, "the console")
        ledger = Ledger(engine)
        ledger.clock.at = clock.now()
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", ledger, application.state.desk.fragments.close)
        application.state.desk.fragments.close()
        server.should_exit = True
        thread.join(LIMIT_S)
        engine.dispose()


@pytest.fixture
def window(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Opens windows; none of them may have an error of a script, or ask another host for anything."""
    faults: list[str] = []
    pages: list[Page] = []

    def note(request: Request) -> None:
        if not request.url.startswith(served.url):
            faults.append(f"request to {request.url}")

    def opened(name: str | None = "anna", **options: object) -> Page:
        page = browser.new_page(**({"viewport": DESK, "color_scheme": "light"} | options))
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", note)
        pages.append(page)
        page.goto(served.url)
        if name is not None:
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("heading", name="Now", level=1)).to_be_visible()
        return page

    yield opened
    for page in pages:
        page.close()
    # A page that was refused is logged by the browser as an error of the network.
    assert [fault for fault in faults if "status of 4" not in fault] == []


def barriers(page: Page) -> list[str]:
    """What keeps people with disabilities from using a page (axe-core): serious and critical findings."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def reason(page: Page, text: str) -> None:
    page.get_by_label("Reason").fill(text)


class TestEveryPage:
    @pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light")])
    def test_has_no_barriers_and_fits(
        self, window: Callable[..., Page], served: Served, size: dict[str, int], scheme: str
    ) -> None:
        page = window(viewport=size, color_scheme=scheme)
        job = next(row.id for row in served.ledger.rows(schema.job) if row.state == "dead")
        grant = served.ledger.rows(schema.lane)[0].grant_id
        batch = served.ledger.rows(schema.batch)[0].id
        waiting = next(row.id for row in served.ledger.rows(schema.job) if row.state == "queued")
        own = (f"/jobs/{job}", f"/accounts/default/{grant}", f"/batches/{batch}", f"/acts/retry?job={job}")
        changes = (
            f"/jobs/{waiting}",
            f"/acts/reschedule?job={waiting}",
            f"/acts/hold-job?job={waiting}",
            "/acts/suppress",
        )
        found: dict[str, list[str]] = {}
        for path in (*PAGES, *own, *changes):
            page.goto(served.url + path)
            expect(page.locator("h1")).to_be_visible()
            found[path] = [*barriers(page), *([] if fits(page) else ["it is wider than the window"])]
        assert {path: faults for path, faults in found.items() if faults} == {}

    def test_is_complete_without_javascript(
        self, window: Callable[..., Page], served: Served, browser: Browser
    ) -> None:
        page = window(java_script_enabled=False)
        for path in PAGES[:-1]:
            page.goto(served.url + path)
            expect(page.locator("h1")).to_be_visible()
            expect(page.locator("#live-bar")).to_be_hidden()
        page.goto(f"{served.url}/accounts")
        page.get_by_label("State").select_option("held")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("link", name="Next page").click()
        expect(page.get_by_role("link", name="First page")).to_be_visible()
        assert "state=held" in page.url

    def test_is_reached_by_keys(self, window: Callable[..., Page]) -> None:
        page = window()
        for key, heading in (("a", "Accounts"), ("d", "Dead letters"), ("l", "Journal"), ("n", "Now")):
            page.keyboard.press("g")
            page.keyboard.press(key)
            expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()
        page.keyboard.press("/")
        expect(page.locator("#q")).to_be_focused()


class TestAJob:
    def test_is_found_by_its_key_within_two_steps(self, window: Callable[..., Page], served: Served) -> None:
        job = served.ledger.send("grant-of-a-key", key="invoice 42", provider="google")
        served.ledger.absorb()
        page = window()
        page.get_by_role("searchbox").fill("invoice 42")
        page.get_by_role("button", name="Find").click()
        expect(page.locator("h1")).to_contain_text(str(job))
        expect(page.locator(".lead")).to_contain_text("queued")

    def test_is_cancelled(self, window: Callable[..., Page], served: Served) -> None:
        job = served.ledger.send("grant-of-a-cancel", provider="google")
        served.ledger.absorb()
        page = window()
        page.goto(f"{served.url}/jobs/{job}")
        page.get_by_role("link", name="Cancel…").click()
        reason(page, "sent in error")
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.locator(".lead")).to_contain_text("Done.")
        assert served.ledger.state(job) == "cancelled"

    def test_is_held_and_released(self, window: Callable[..., Page], served: Served) -> None:
        job = next(row.id for row in served.ledger.rows(schema.job) if row.state == "queued")
        page = window()
        for act, says in (("Hold", "The job is held until it is released"), ("Release", "Hold…")):
            page.goto(f"{served.url}/jobs/{job}")
            page.get_by_role("link", name=f"{act}…").click()
            reason(page, "the price is wrong")
            page.get_by_role("button", name=f"{act} the job").click()
            expect(page.get_by_text("Done.")).to_be_visible()
            page.goto(f"{served.url}/jobs/{job}")
            expect(page.get_by_text(says).first).to_be_visible()
        assert served.ledger.job(job).resume_at is None


class TestLiveUpdates:
    def test_show_what_changes_until_they_are_paused(self, window: Callable[..., Page], served: Served) -> None:
        page = window()
        page.goto(f"{served.url}/jobs?grant=grant-of-live")
        expect(page.get_by_text("Nothing matches these filters.")).to_be_visible()
        served.ledger.send("grant-of-live")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live-text")).to_have_text("Paused")
        served.ledger.send("grant-of-live")
        page.wait_for_timeout(1_500)
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("tbody tr")).to_have_count(2)

    def test_come_back_after_the_connection_was_lost(self, window: Callable[..., Page], served: Served) -> None:
        page = window()
        page.goto(f"{served.url}/jobs?grant=grant-of-loss")
        expect(page.locator("#live-text")).to_contain_text("updated")
        served.end_streams()
        served.ledger.send("grant-of-loss")
        expect(page.locator("tbody tr")).to_have_count(1)


class TestAnId:
    def test_is_copied(self, window: Callable[..., Page], served: Served) -> None:
        page = window()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{served.url}/dead")
        row = page.locator("table").nth(1).locator("tbody tr").first
        row.hover()
        row.get_by_role("button").first.click()
        expect(row.get_by_role("button").first).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == row.locator("code").first.inner_text()


class TestAViewer:
    def test_sees_all_and_may_not_act(self, window: Callable[..., Page], served: Served) -> None:
        page = window("vera")
        expect(page.get_by_role("link", name="Release all…")).to_have_count(0)
        page.goto(f"{served.url}/acts/release-all?rule={HELD_RULE}")
        expect(page.get_by_text("Only operators may act")).to_be_visible()

    def test_signs_out(self, window: Callable[..., Page], served: Served) -> None:
        page = window("vera")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.goto(f"{served.url}/jobs")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


class TestAForgedForm:
    def test_of_another_site_changes_nothing(self, window: Callable[..., Page], served: Served) -> None:
        page = window()
        answer = page.request.post(
            f"{served.url}/acts/hold",
            form={"provider": "google", "reason": "r", "id": "forged-form-1"},
            headers={"sec-fetch-site": "cross-site"},
        )
        assert answer.status == 403
        assert not [row for row in served.ledger.rows(schema.pair) if row.held_by == "anna"]


class TestASuppressedRecipient:
    def test_is_looked_up_and_removed_without_the_address_in_any_url(
        self, window: Callable[..., Page], served: Served
    ) -> None:
        address = "leyah@example.com"
        page = window()
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.get_by_role("link", name="Suppressions").click()
        page.get_by_role("link", name="Suppress a recipient…").click()
        page.get_by_label("Recipient").fill(address)
        reason(page, "they asked")
        page.get_by_role("button", name="Suppress", exact=True).click()
        expect(page.get_by_text("1 entry added")).to_be_visible()
        for act, says in (("Remove", "No mail is sent to this recipient"), (None, "have no entry for this recipient")):
            page.goto(f"{served.url}/suppressions")
            page.get_by_label("Recipient").fill(address)
            page.get_by_role("button", name="Is it suppressed?").click()
            expect(page.locator(".lead")).to_contain_text(says)
            assert fits(page)
            assert barriers(page) == []
            if act is not None:
                page.get_by_role("link", name=f"{act}…").click()
                reason(page, "they asked for it again")
                page.get_by_role("button", name=act).click()
                expect(page.get_by_text("1 entry removed")).to_be_visible()
        assert [url for url in urls if "leyah" in url] == []


class TestPictures:
    def test_of_the_first_page_and_of_a_job(self, window: Callable[..., Page], served: Served, pictures: Path) -> None:
        job = next(row.id for row in served.ledger.rows(schema.job) if row.state == "dead")
        with writing(served.ledger.engine) as connection:
            connection.execute(schema.worker.update().values(beat_at=clock.now()))
        served.hold_again()
        for name, size, path in (
            ("console-now", DESK | {"height": 700}, "/"),
            ("console-job", DESK | {"height": 640}, f"/jobs/{job}"),
            ("console-phone", PHONE, "/"),
        ):
            page = window(viewport=size)
            page.goto(served.url + path)
            expect(page.locator("#live-text")).to_contain_text("updated")
            picture = pictures / f"{name}.png"
            page.screenshot(path=picture)
            assert picture.stat().st_size < PICTURE_BYTES


class TestAThousandHeldGrants:
    def test_are_released_by_two_clicks(self, window: Callable[..., Page], served: Served) -> None:
        def held() -> int:
            now = clock.now()
            return sum((row.held_until or 0) > now for row in served.ledger.rows(schema.lane))

        served.hold_again()
        assert held() == HELD
        page = window()
        page.get_by_role("link", name="Release all…").click()
        expect(page.get_by_role("heading", name=f"Release {HELD:,} grants")).to_be_visible()
        reason(page, "the server is back")
        page.get_by_role("button", name=f"Release {HELD:,} grants").click()
        expect(page.locator(".lead")).to_contain_text("Done.")
        expect(page.get_by_text(f"{HELD:,} of {HELD:,}")).to_be_visible()
        assert held() == 0
        page.get_by_role("link", name="Journal").last.click()
        expect(page.locator("tbody tr").first).to_contain_text("the server is back")


class TestDeadLetters:
    def test_are_retried_by_rule_at_a_rate(self, window: Callable[..., Page], served: Served) -> None:
        page = window()
        page.goto(f"{served.url}/dead")
        row = page.locator("table").first.locator("tbody tr", has_text="recipients_invalid")
        row.get_by_role("link", name="Retry all…").click()
        page.get_by_label("Rate").select_option("600")
        reason(page, "the addresses are corrected")
        page.get_by_role("button", name="Retry ").click()
        expect(page.locator(".lead")).to_contain_text("Done.")
        page.goto(f"{served.url}/dead?rule=recipients_invalid")
        expect(page.get_by_text("Nothing matches these filters.")).to_be_visible()
