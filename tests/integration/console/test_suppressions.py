"""The pages of the suppression lists: counts, entries by digest, looking a recipient up, adding and removing one."""

from __future__ import annotations

import re

import pytest

from sendq import Operators
from sendq.console import anyone, console
from sendq.ledger.db import schema
from sendq.vault import Vault
from tests.integration.console.conftest import VERA, Seat, act, submit
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Ledger

LEYAH, NOOR = "leyah@example.com", "noor@example.com"


def add(ledger: Ledger, address: str = LEYAH, category: str | None = None, application: str = "default") -> str:
    """Suppress a recipient; returns its digest."""
    operators = Operators(ledger.engine, now=ledger.clock)
    operators.suppress([address], application=application, category=category, by="ben", reason="asked").finish()
    return str(operators.digest_of_recipient(address, application=application))


def look_up(browser: Browser, recipient: str, application: str = "") -> Answer:
    page = browser.get("/suppressions")
    return browser.post(
        "/suppressions", {"csrf": page.field("csrf"), "recipient": recipient, "application": application}
    )


def entries(ledger: Ledger) -> list[tuple[str, str]]:
    return sorted((row.application, row.category) for row in ledger.rows(schema.suppression))


class TestTheList:
    def test_has_counts_and_entries_by_digest_and_no_address(self, browser: Browser, kept: Ledger) -> None:
        digest = add(kept)
        add(kept, NOOR)
        add(kept, NOOR, "news", "shop")
        page = browser.get("/suppressions")
        assert "3 entries" in page.words
        assert "default all mail added 2" in page.words
        assert "shop news added 1" in page.words
        assert re.search(rf"{digest} Copy default all mail added ben", page.words)
        assert "@" not in page.words

    def test_is_filtered_from_its_counts(self, browser: Browser, kept: Ledger) -> None:
        add(kept)
        add(kept, NOOR, "news", "shop")
        for link in re.findall(r'<a href="(/suppressions\?[^"]*)">', browser.get("/suppressions").text):
            page = browser.get(link.replace("&amp;", "&"))
            assert page.text.partition("<tbody>")[2].count("<tr>") == 1, link
        assert "Nothing matches these filters." in browser.get("/suppressions?reason=bounced").words
        assert browser.get("/suppressions?all_mail=yes&category=news").status == 400

    def test_goes_on_page_by_page(self, browser: Browser, kept: Ledger) -> None:
        addresses = [f"a{number}@example.com" for number in range(60)]
        Operators(kept.engine, now=kept.clock).suppress(addresses, by="ben", reason="asked").finish()
        first = browser.get("/suppressions").text
        second = browser.get(str(re.findall(r'rel="next" href="([^"]*)"', first)[0]))
        digests = re.findall(r"<code>([0-9a-f]{32})</code>", first + second.text)
        assert (len(digests), len(set(digests))) == (60, 60)
        assert "End of the list" in second.words

    def test_is_updated_without_its_counts(self, browser: Browser, kept: Ledger) -> None:
        add(kept)
        (update,) = browser.events("/suppressions", 1)
        assert "data-copy" in update
        assert "csrf" not in update
        assert "1 entry" not in update


class TestLookingUp:
    def test_says_whether_and_why(self, browser: Browser, kept: Ledger) -> None:
        assert "not suppressed All applications have no entry" in look_up(browser, LEYAH).words
        digest = add(kept)
        add(kept, LEYAH, "news", "shop")
        page = look_up(browser, f"Leyah <{LEYAH.upper()}>")
        assert "suppressed No mail is sent to this recipient by application default (since" in page.words
        assert "added, from ben" in page.words
        assert page.text.count("<code>") == 2
        shop = look_up(browser, LEYAH, "shop")
        assert "Mail of one category is not sent" in shop.words
        assert "No mail is sent" in look_up(browser, digest).words
        assert "not suppressed Application eu has no entry" in look_up(browser, LEYAH, "eu").words

    def test_leaves_the_address_out_of_every_link(self, browser: Browser, kept: Ledger) -> None:
        for add_it in (False, True):
            if add_it:
                add(kept)
            page = look_up(browser, LEYAH)
            assert re.findall(rf'(?:href|action)="[^"]*{LEYAH.partition("@")[0]}', page.text) == []

    def test_is_for_viewers_too(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        add(kept)
        seat.person = VERA
        page = look_up(browser, LEYAH)
        assert (page.status, "/acts/" in page.text) == (200, False)

    def test_is_for_everybody_on_a_machine_without_a_login(self, kept: Ledger) -> None:
        add(kept)
        assert "No mail is sent" in look_up(Browser(console(Operators(kept.engine), who=anyone)), LEYAH).words

    @pytest.mark.parametrize(
        "recipient", ["", "nobody", "a b@example.com", "x" * 400, "\x00", "<script>alert(1)</script>"]
    )
    def test_of_what_is_no_recipient_is_refused(self, browser: Browser, recipient: str) -> None:
        page = look_up(browser, recipient)
        assert page.status == 400
        assert "digest" in page.words
        assert "<script>alert" not in page.text

    def test_needs_a_form_of_the_console(self, browser: Browser, seat: Seat) -> None:
        assert browser.post("/suppressions", {"recipient": LEYAH}).status == 403
        page = browser.get("/suppressions")
        form = {"csrf": page.field("csrf"), "recipient": LEYAH}
        assert browser.post("/suppressions", form, sec_fetch_site="cross-site").status == 403
        seat.person = None
        assert browser.post("/suppressions", form).status == 403

    def test_in_an_encrypted_ledger_needs_its_key(self, kept: Ledger, seat: Seat) -> None:
        vault = Vault.parse("k1:" + "A" * 43 + "=")
        operators = Operators(kept.engine, now=kept.clock)
        operators.suppress([LEYAH], vault=vault, by="ben", reason="asked").finish()
        digest = bytes(kept.rows(schema.suppression)[0].digest).hex()
        without = Browser(console(operators, who=seat))
        page = look_up(without, LEYAH)
        assert "the console does not have its key" in page.words
        assert "suppressions list --recipient" in page.words
        assert "No mail is sent" in look_up(without, digest).words
        assert "No mail is sent" in look_up(Browser(console(operators, who=seat, vault=vault)), LEYAH).words
        refused = submit(without, "/acts/suppress", address=NOOR, reason="asked")
        assert (refused.status, "the console does not have its key" in refused.words) == (422, True)
        act(without, f"/acts/unsuppress?recipient={digest}", recipient=digest, reason="asked again")
        assert entries(kept) == []


class TestSuppress:
    def test_adds_an_address(self, browser: Browser, kept: Ledger) -> None:
        done = act(browser, "/acts/suppress", address=LEYAH, application="shop", category="news", reason="they asked")
        assert "1 entry added" in done.words
        assert LEYAH not in done.text
        assert entries(kept) == [("shop", "news")]
        (event,) = kept.rows(schema.event)
        assert (event.kind, event.by, event.reason, event.category) == ("suppressed", "anna", "they asked", "news")
        again = act(browser, "/acts/suppress", address=LEYAH, application="shop", category="news", reason="again")
        assert "there is such an entry already" in again.words

    def test_adds_who_was_looked_up(self, browser: Browser, kept: Ledger) -> None:
        add(kept, NOOR, application="shop")
        link = re.findall(r'href="(/acts/suppress\?[^"]*)"', look_up(browser, LEYAH, "shop").text)[0]
        url = link.replace("&amp;", "&")
        recipient = browser.get(url).field("recipient")
        act(browser, url, recipient=recipient, reason="they asked")
        assert "No mail is sent" in look_up(browser, LEYAH, "shop").words

    @pytest.mark.parametrize(
        "wrong",
        [
            {"address": ""},
            {"address": "nobody"},
            {"address": LEYAH, "category": "x" * 200},
        ],
    )
    def test_says_what_is_wrong_and_keeps_the_form(self, browser: Browser, kept: Ledger, wrong: dict[str, str]) -> None:
        page = browser.get("/acts/suppress")
        form = {name: page.field(name) for name in ("csrf", "id")} | {"reason": "r", "application": "default"} | wrong
        answer = browser.post("/acts/suppress", form)
        assert (answer.status, 'role="alert"' in answer.text) == (422, True)
        assert f'name="application" value="{form["application"]}"' in answer.text
        assert answer.text.count('name="application"') == 1
        assert entries(kept) == []


class TestUnsuppress:
    def test_removes_an_entry_and_warns_of_a_person_who_complained(self, browser: Browser, kept: Ledger) -> None:
        digest = add(kept)
        add(kept, LEYAH, "news")
        with kept.writing() as connection:
            connection.execute(schema.suppression.update().values(reason="complained"))
        url = f"/acts/unsuppress?recipient={digest}&application=default&category=news"
        assert "marked a mail as spam" in browser.get(url).words
        done = act(browser, url, recipient=digest, category="news", reason="they asked for it")
        assert "1 entry removed" in done.words
        assert entries(kept) == [("default", "")]
        assert 'name="reason"' not in browser.get(url).text
        assert "There is no such entry" in browser.get(url).words

    def test_finds_an_entry_of_a_person_who_has_more_than_a_page_of_them(self, browser: Browser, kept: Ledger) -> None:
        digest = add(kept)
        (first,) = kept.rows(schema.suppression)
        with kept.writing() as connection:
            later = [
                first._asdict() | {"category": f"news-{number}", "at": first.at + number + 1} for number in range(101)
            ]
            connection.execute(schema.suppression.insert(), later)
        for query in ("", "&category=news-0"):
            page = browser.get(f"/acts/unsuppress?recipient={digest}&application=default{query}")
            assert "There is no such entry" not in page.words

    @pytest.mark.parametrize("query", ["", "recipient=leyah@example.com", "recipient=00", "application=default"])
    def test_needs_a_digest(self, browser: Browser, query: str) -> None:
        assert browser.get(f"/acts/unsuppress?{query}").status == 404
