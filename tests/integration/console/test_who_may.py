"""Who may read and act: passwords, sessions, proxies, roles, forged forms, and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from starlette.requests import Request

from sendq import Operators
from sendq.console import (
    PasswordFile,
    PasswordFileError,
    Person,
    ProxyHeader,
    Role,
    anyone,
    console,
    password_line,
    serving,
    signing_in,
)
from sendq.console.doing import RECORDED_MOST
from sendq.ledger.db import schema
from sendq.web.login_attempts import MOST
from tests.integration.console.conftest import ANNA, RULES, VERA, Seat, act
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Ledger

PASSWORD = "correct horse"
ELSEWHERE = "console.example"


@pytest.fixture(scope="module")
def lines() -> str:
    """Two people with the same password: each hash takes a tenth of a second."""
    hashed = password_line("anna", PASSWORD, Role.OPERATOR).rpartition(":")[2]
    return f"# the console's people\nanna:operator:{hashed}\n\nvera:viewer:{hashed}\n"


@pytest.fixture
def passwords(tmp_path: Path, lines: str) -> Path:
    path = tmp_path / "passwords"
    path.write_text(lines)
    return path


@pytest.fixture
def locked(kept: Ledger, passwords: Path) -> Browser:
    """A console with a password file."""
    return Browser(console(Operators(kept.engine), who=PasswordFile(passwords), rules=RULES))


def sign_in(browser: Browser, name: str = "anna", password: str = PASSWORD, **headers: str) -> Answer:
    page = browser.get("/sign-in")
    return browser.post("/sign-in", {"csrf": page.field("csrf"), "name": name, "password": password}, **headers)


class TestSigningIn:
    def test_opens_the_console_until_the_person_signs_out(self, locked: Browser) -> None:
        assert (locked.get("/").status, locked.get("/").headers["location"]) == (303, "/sign-in")
        answer = sign_in(locked)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        page = locked.get("/")
        assert "anna operator" in page.words
        stolen = dict(locked.cookies)
        assert locked.post("/sign-out", {"csrf": page.field("csrf")}).headers["location"] == "/sign-in"
        assert locked.get("/").status == 303
        locked.cookies = stolen
        assert locked.get("/").status == 303

    def test_gives_a_cookie_that_neither_scripts_nor_other_sites_get(self, locked: Browser) -> None:
        (cookie,) = [
            one for one in sign_in(locked).cookies if one.startswith("sendq_session=") and "Max-Age=0" not in one
        ]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        locked.host, locked.cookies = ELSEWHERE, {}
        assert all("Secure" in one.split("; ") for one in sign_in(locked).cookies)

    @pytest.mark.parametrize(
        ("name", "password"), [("anna", "wrong horse"), ("nobody", PASSWORD), ("", ""), ("anna:operator", PASSWORD)]
    )
    def test_is_refused_alike_for_a_wrong_name_and_a_wrong_password(
        self, locked: Browser, name: str, password: str
    ) -> None:
        answer = sign_in(locked, name, password)
        assert answer.status == 401
        assert "The name or the password is wrong." in answer.words
        assert locked.get("/").status == 303

    def test_is_limited(self, locked: Browser, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "sendq.console"):
            statuses = [sign_in(locked, password="guess number").status for _ in range(MOST["both"] + 1)]
        assert statuses == [401] * MOST["both"] + [429]
        late = sign_in(locked)
        assert (late.status, 0 < int(late.headers["retry-after"]) <= 300) == (429, True)
        assert "guess" not in caplog.text
        assert sign_in(locked, "vera").status == 303  # somebody else
        locked.peer, locked.cookies = "10.0.0.8", {}
        assert sign_in(locked).status == 303  # from elsewhere

    def test_waits_only_so_long_for_a_form(self, locked: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "FORM_S", 0.05)
        locked.sends_all = False
        answer = locked.post("/sign-in", {"name": "anna"})
        assert (answer.status, answer.headers["connection"]) == (408, "close")

    def test_reads_only_so_many_forms_at_once(self, locked: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "FORM_S", 0.2)
        monkeypatch.setattr(signing_in, "FORMS_MOST", 3)
        locked.sends_all = False

        async def send(number: int) -> list[int]:
            slow = [locked.answer_to("POST", "/sign-in", b"name=") for _ in range(number)]
            return [answer.status for answer in await asyncio.gather(*slow)]

        assert sorted(asyncio.run(send(5))) == [408] * 3 + [503] * 2
        locked.sends_all = True
        assert sign_in(locked).status == 303

    def test_needs_the_form_that_this_browser_was_given(self, locked: Browser) -> None:
        token = Browser(locked.application).get("/sign-in").field("csrf")
        locked.get("/sign-in")
        given = {"csrf": token, "name": "anna", "password": PASSWORD}
        assert locked.post("/sign-in", given).status == 403
        assert locked.post("/sign-in", given | {"csrf": "é"}).status == 403

    def test_through_a_proxy_that_is_not_believed_warns_once(
        self, locked: Browser, caplog: pytest.LogCaptureFixture
    ) -> None:
        for address in ("192.0.2.1", "192.0.2.2"):
            sign_in(locked, x_forwarded_for=address)
        warnings = [one.getMessage() for one in caplog.records if "SENDQ_CONSOLE_TRUSTED_PROXIES" in one.getMessage()]
        assert [line.partition(" is ignored")[0] for line in warnings] == ["X-Forwarded-For from 127.0.0.1"]

    def test_over_plain_http_says_that_it_cannot_work(self, locked: Browser) -> None:
        assert "without HTTPS" not in locked.get("/sign-in").words
        locked.host = ELSEWHERE
        assert "without HTTPS" in locked.get("/sign-in").words
        assert "without HTTPS" not in locked.get("/sign-in", x_forwarded_proto="https").words


class TestASession:
    def test_ends_when_its_person_is_removed_or_gets_another_password(
        self, locked: Browser, passwords: Path, lines: str
    ) -> None:
        sign_in(locked)
        assert locked.get("/").status == 200
        passwords.write_text(lines.replace("anna:operator", "anna:viewer"))
        assert "anna viewer" in locked.get("/").words
        other = password_line("anna", "another password", Role.OPERATOR)
        passwords.write_text(other)
        assert locked.get("/").status == 303
        passwords.unlink()
        assert locked.get("/").status == 303

    def test_is_worth_nothing_if_it_is_changed(self, locked: Browser) -> None:
        sign_in(locked)
        token = locked.cookies["sendq_session"]
        said, _, signature = token.partition(".")
        deep = urlsafe_b64encode(b"[" * 5_000).decode()
        for forged in (
            said, f"{said}.", f"{said}x.{signature}", f"{said}.{signature}x", ".", "x", "bnVsbA.x", "é.é", f"{deep}.x"
        ):  # fmt: skip
            locked.cookies["sendq_session"] = forged
            assert locked.get("/").status == 303, forged

    def test_of_one_console_is_none_of_another(self, locked: Browser, kept: Ledger, passwords: Path) -> None:
        sign_in(locked)
        people = PasswordFile(passwords)
        other = Browser(console(Operators(kept.engine), who=people))
        other.cookies = locked.cookies
        assert other.get("/").status == 303
        same = [Browser(console(Operators(kept.engine), who=people, secret="s" * 32)) for _ in range(2)]
        sign_in(same[0])
        same[1].cookies = same[0].cookies
        assert same[1].get("/").status == 200

    def test_lasts_a_working_day(self, locked: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        sign_in(locked)
        now = time.time()
        monkeypatch.setattr(locked.application.state.desk.sessions, "_now", lambda: now + 12 * 3600 + 1)  # type: ignore[attr-defined]
        assert locked.get("/").status == 303


class TestAPasswordFile:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("anna", "line 1"),
            ("# people\nanna:root:scrypt$2$1$1$c2FsdHNhbHQ=$aGFzaA==", "line 2"),
            ("anna:operator:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", "line 1"),
            ("anna:operator:scrypt$1073741824$8$1$c2FsdHNhbHQ=$" + "aGFzaA" * 8 + "==", "line 1"),
            (":operator:x", "line 1"),
        ],
    )
    def test_that_cannot_be_used_names_the_line(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "passwords"
        path.write_text(text)
        with pytest.raises(PasswordFileError, match=says) as caught:
            PasswordFile(path)
        assert "sendq password" in str(caught.value)

    def test_that_is_missing_says_how_to_write_one(self, tmp_path: Path) -> None:
        with pytest.raises(PasswordFileError, match=r"No such file.*sendq password"):
            PasswordFile(tmp_path / "none")

    @pytest.mark.parametrize(
        ("name", "password"), [("a:b", PASSWORD), ("", PASSWORD), ("#a", PASSWORD), ("a", "short")]
    )
    def test_has_no_line_for_a_name_or_password_that_cannot_be_used(self, name: str, password: str) -> None:
        with pytest.raises(ValueError, match=r"the (name|password) must"):
            password_line(name, password)


class TestAProxy:
    def browser(self, kept: Ledger, peer: str = "10.0.0.7") -> Browser:
        who = ProxyHeader("X-Forwarded-User", trusted=["10.0.0.0/8"], operators=["anna"])
        return Browser(console(Operators(kept.engine), who=who), host=ELSEWHERE, peer=peer)

    def test_names_the_person_and_the_settings_the_operators(self, kept: Ledger) -> None:
        browser = self.browser(kept)
        assert "anna operator" in browser.get("/", x_forwarded_user="anna").words
        assert "vera viewer" in browser.get("/", x_forwarded_user="vera").words

    def test_is_believed_from_its_address_alone(self, kept: Ledger) -> None:
        assert self.browser(kept, "192.0.2.1").get("/", x_forwarded_user="anna").status == 403
        assert self.browser(kept, "not an address").get("/", x_forwarded_user="anna").status == 403
        assert self.browser(kept).get("/").status == 403
        assert self.browser(kept).get("/", x_forwarded_user=" ").status == 403

    def test_lets_attempts_be_counted_by_the_clients_address(self, kept: Ledger, passwords: Path) -> None:
        people = PasswordFile(passwords)
        trusting = console(Operators(kept.engine), who=people, trusted_proxies=["10.0.0.7"])
        proxies = trusting.state.desk.proxies

        def client(peer: str, forwarded: str) -> str:
            scope = Browser(trusting, peer=peer).scope("GET", "/", {"x-forwarded-for": forwarded})
            found: str = proxies.client_of(Request(scope))
            return found

        assert client("10.0.0.7", "6.6.6.6, 192.0.2.9") == "192.0.2.9"
        assert client("10.0.0.7", "192.0.2.9, 10.0.0.7") == "192.0.2.9"
        assert client("192.0.2.1", "6.6.6.6") == "192.0.2.1"


class TestWithoutALogin:
    def test_everybody_on_this_machine_may_read_and_nobody_may_act(self, kept: Ledger) -> None:
        browser = Browser(console(Operators(kept.engine), who=anyone))
        assert "anonymous viewer" in browser.get("/").words
        assert browser.get("/acts/hold?provider=google").status == 403

    def test_a_name_that_leads_to_this_machine_may_not(self, kept: Ledger) -> None:
        assert Browser(console(Operators(kept.engine), who=anyone), host="rebound.example").get("/").status == 403

    @pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "not an address"])
    def test_who_comes_from_elsewhere_may_not(self, kept: Ledger, peer: str) -> None:
        assert Browser(console(Operators(kept.engine), who=anyone), peer=peer).get("/").status == 403

    @pytest.mark.parametrize("peer", ["127.0.0.2", "::1", "::ffff:127.0.0.1"])
    def test_every_address_of_this_machine_may(self, kept: Ledger, peer: str) -> None:
        assert Browser(console(Operators(kept.engine), who=anyone), peer=peer).get("/").status == 200

    def test_who_comes_through_a_proxy_on_this_machine_may_not(self, kept: Ledger) -> None:
        browser = Browser(console(Operators(kept.engine), who=anyone))
        for name, value in (
            ("x_forwarded_for", "192.0.2.1"), ("x_real_ip", "192.0.2.1"), ("forwarded", "for=192.0.2.1"),
            ("via", "1.1 proxy"), ("x_forwarded_proto", "https"), ("x_forwarded_host", "console.example"),
        ):  # fmt: skip
            answer = browser.get("/", **{name: value})
            assert (answer.status, "no login" in answer.words) == (403, True), name
        browser.sent_as = {"http_version": "1.0"}  # nginx, as it is set up by default
        assert browser.get("/").status == 403
        browser.sent_as = {"client": None}  # a socket file
        assert browser.get("/").status == 403


class TestAFunctionOfTheApplication:
    def test_may_be_a_coroutine_and_may_name_nobody(self, kept: Ledger) -> None:
        async def who(request: Request) -> Person | None:
            return Person("anna", Role.OPERATOR) if request.headers.get("x-mine") else None

        browser = Browser(console(Operators(kept.engine), who=who))
        assert browser.get("/").status == 403
        assert "anna operator" in browser.get("/", x_mine="yes").words


class TestAViewer:
    def test_who_tries_to_act_is_refused_and_recorded(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        job = kept.send("g1")
        page = browser.get(f"/acts/cancel?job={job}")
        seat.person = VERA
        assert browser.get(f"/acts/cancel?job={job}").status == 403
        form = {"csrf": page.field("csrf"), "id": page.field("id"), "job": str(job), "reason": "because"}
        assert browser.post("/acts/cancel", form).status == 403  # anna's token
        assert kept.rows(schema.event) == []
        token = browser.application.state.desk.signer.sign("csrf", "vera", "")  # type: ignore[attr-defined]
        answer = browser.post("/acts/cancel", form | {"csrf": token})
        assert (answer.status, "recorded in the journal" in answer.words) == (403, True)
        (event,) = kept.rows(schema.event)
        assert (event.kind, event.by, event.reason) == (
            "refused",
            "vera",
            "cancel: a viewer of the console may not act",
        )
        assert kept.state(job) == "queued"
        assert "refused vera" in browser.get("/journal").words

    def test_who_tries_on_does_not_fill_the_journal(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        seat.person = VERA
        token = browser.application.state.desk.signer.sign("csrf", "vera", "")  # type: ignore[attr-defined]
        browser.application.state.desk.operators.record_refusal = lambda act, *, by, reason: tries.append(by)  # type: ignore[attr-defined]
        tries: list[str] = []
        for _ in range(RECORDED_MOST + 5):
            assert browser.post("/acts/hold", {"csrf": token}).status == 403
        assert len(tries) == RECORDED_MOST

    def test_sees_no_way_to_act(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        kept.send("g1")
        kept.absorb()
        assert "/acts/" in browser.get("/accounts/default/g1").text
        seat.person = VERA
        assert "/acts/" not in browser.get("/accounts/default/g1").text


class TestAForm:
    def test_from_elsewhere_changes_nothing(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        job = kept.send("g1")
        page = browser.get(f"/acts/cancel?job={job}")
        good = {"csrf": page.field("csrf"), "id": page.field("id"), "job": str(job), "reason": "because"}
        for form in (good | {"csrf": ""}, good | {"csrf": "x" * 43}, {"job": str(job)}):
            answer = browser.post("/acts/cancel", form)
            assert (answer.status, "Nothing was changed." in answer.words) == (403, True)
        for site in ("cross-site", "same-site"):
            assert browser.post("/acts/cancel", good, sec_fetch_site=site).status == 403
        browser.sends_all = False  # from another site it is refused unread
        assert browser.post("/acts/replace", good, sec_fetch_site="cross-site").status == 403
        browser.sends_all = True
        assert browser.post("/acts/cancel", good | {"reason": "x" * 40_000}).status == 413
        assert browser.request("POST", "/acts/cancel", b"\xff\xfe=1").status in (400, 403)
        assert kept.state(job) == "queued"
        assert browser.post("/acts/cancel", good, sec_fetch_site="same-origin").status == 303
        assert kept.state(job) == "cancelled"

    def test_needs_a_reason(self, browser: Browser, kept: Ledger) -> None:
        job = kept.send("g1")
        page = browser.get(f"/acts/cancel?job={job}")
        form = {"csrf": page.field("csrf"), "id": page.field("id"), "job": str(job), "reason": "  "}
        answer = browser.post("/acts/cancel", form)
        assert (answer.status, "Give a reason" in answer.words) == (422, True)
        assert kept.state(job) == "queued"

    def test_is_carried_out_by_the_person_who_is_signed_in(self, browser: Browser, kept: Ledger) -> None:
        job = kept.send("g1")
        act(browser, f"/acts/cancel?job={job}", reason="sent in error", by="somebody", person="else")
        (event,) = kept.rows(schema.event)
        assert (event.kind, event.by, event.reason) == ("cancel", ANNA.name, "sent in error")


class TestEveryAnswer:
    @pytest.mark.parametrize("host", ["[::1", "[zz]", "a:b:c", "127.0.0.1:99999999", "a@b", "", "a/b"])
    def test_to_a_host_that_cannot_be_one_is_a_refusal(self, locked: Browser, kept: Ledger, host: str) -> None:
        for browser in (locked, Browser(console(Operators(kept.engine), who=anyone))):
            browser.host = host
            for path in ("/sign-in", "/", "/jobs/", "/nothing"):
                answer = browser.get(path)
                assert (answer.status, browser.failure) == (400, None), path
                assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

    def test_lets_a_browser_do_little(self, browser: Browser, locked: Browser, seat: Seat) -> None:
        answers = [
            browser.get("/"), browser.get("/nothing"), browser.get("/jobs/x"), browser.get("/files/console.js"),
            browser.get("/files/nothing"), browser.post("/acts/hold", {}), locked.get("/sign-in"), locked.get("/"),
        ]  # fmt: skip
        for answer in answers:
            policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"

    def test_has_them_when_the_console_itself_fails(self, browser: Browser) -> None:
        browser.application.state.desk.operators.overview = lambda: 1 / 0  # type: ignore[attr-defined]
        answer = browser.get("/")
        assert isinstance(browser.failure, ZeroDivisionError)
        assert (answer.status, "Its log has the details." in answer.words) == (500, True)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

    def test_has_no_script_or_style_in_a_page(self, browser: Browser, kept: Ledger) -> None:
        kept.send("g1")
        kept.absorb()
        for path in ("/", "/jobs", "/accounts/default/g1", "/acts/hold?grant=g1"):
            text = browser.get(path).text
            assert " style=" not in text
            assert "<style" not in text
            assert all(tag.startswith('<script src="/files/') for tag in text.split() if tag.startswith("<script "))
            assert "onclick" not in text

    def test_keeps_files_only_under_the_address_with_their_digest(self, browser: Browser) -> None:
        page = browser.get("/").text
        (script,) = [part.split('"')[0] for part in page.split('src="')[1:] if "console.js" in part]
        assert "immutable" in browser.get(script).headers["cache-control"]
        assert browser.get("/files/..%2fheaders.py").status == 404
