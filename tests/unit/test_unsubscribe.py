"""One-click unsubscribe: the headers of a mail, and what is refused. Pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sendq import InvalidJob, Message, Options, Send, SendQueue, Unsubscribe
from sendq.enqueueing.planning import plan_sends
from sendq.messages.digests import digest_of
from sendq.messages.payload import send_digest
from sendq.messages.unsubscribe import Links, url_fault
from sendq.messages.unsubscribe_token import Token, read, signing_key
from sendq.webhooks.one_click_form import asks_one_click

KEY = bytes(32)
LINKS = Links(KEY, "https://mail.example.com/unsubscribe/")
LEYAH = "leyah@example.com"
NOW = 1_780_000_000_000_000


def planned(message: Message, links: Links | None = LINKS, **options: Any) -> dict[str, Any]:
    sends = [Send("g1", message, Options(**options))]
    (payload,) = plan_sends(sends, indexed=False, now=NOW, metadata_key="key1", links=links).plan.payloads
    return dict(json.loads(payload["body"]))


def headers(message: Message, **more: Any) -> dict[str, str]:
    return {one["name"]: one["value"] for one in planned(message, **more)["custom_headers"]}


def problems(message: Message, links: Links | None = LINKS, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidJob) as error:
        planned(message, links, **options)
    return {problem.field: problem.reason for problem in error.value.problems}


class TestAMail:
    def test_has_a_link_of_its_recipient_application_and_category(self) -> None:
        made = headers(Message(to=[f"Leyah <{LEYAH}>"], unsubscribe="newsletter"), application="shop")
        assert made["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = made["List-Unsubscribe"]
        assert link.startswith("<https://mail.example.com/unsubscribe/")
        assert LEYAH not in link
        token = read(signing_key(KEY), link[len("<https://mail.example.com/unsubscribe/") : -1])
        assert token == Token("shop", "newsletter", digest_of(KEY, "shop", LEYAH))

    def test_may_have_an_endpoint_and_an_address_of_its_own(self) -> None:
        own = Unsubscribe(category="news", url="https://x.example/u", mailto="unsubscribe@example.com")
        link = headers(Message(to=[LEYAH], unsubscribe=own), links=Links(KEY, None))["List-Unsubscribe"]
        token = LINKS.token("default", "news", LEYAH)
        assert link == f"<https://x.example/u/{token}>, <mailto:unsubscribe@example.com?subject={token}>"

    def test_keeps_its_own_headers_and_is_unchanged_otherwise(self) -> None:
        message = Message(to=[LEYAH], custom_headers=[{"name": "X-Campaign", "value": "7"}], unsubscribe="news")
        plain = planned(message.model_copy(update={"unsubscribe": None}))
        body = planned(message)
        names = [one["name"] for one in body["custom_headers"]]
        assert names == ["X-Campaign", "List-Unsubscribe", "List-Unsubscribe-Post", "X-Sendq-Job"]
        assert {**body, "custom_headers": 0, "metadata": 0} == {**plain, "custom_headers": 0, "metadata": 0}

    def test_is_equal_to_a_repeat_after_the_endpoint_has_moved(self) -> None:
        def digest(**more: str) -> bytes:
            message = Message(to=[LEYAH], unsubscribe={"category": "news"} | more)
            return send_digest(message, application="default", grant_id="g1")

        assert digest() == digest(url="https://x.example/u") != digest(mailto="u@example.com")
        plain = send_digest(Message(to=[LEYAH]), application="default", grant_id="g1")
        assert digest() != plain

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"cc": ["noor@example.com"]}, "unsubscribe"),
            ({"to": [LEYAH, "noor@example.com"]}, "unsubscribe"),
            ({"custom_headers": [{"name": "list-unsubscribe", "value": "<https://x.example>"}]}, "unsubscribe"),
            ({"unsubscribe": ""}, "unsubscribe.category"),
            ({"unsubscribe": " news"}, "unsubscribe.category"),
            ({"unsubscribe": "a\nb"}, "unsubscribe.category"),
            ({"unsubscribe": "x" * 101}, "unsubscribe.category"),
            ({"unsubscribe": {"category": "news", "url": "http://x.example"}}, "unsubscribe.url"),
            ({"unsubscribe": {"category": "news", "mailto": "unsubscribe@"}}, "unsubscribe.mailto"),
            ({"unsubscribe": {"category": "news", "mailto": "a&b@example.com"}}, "unsubscribe.mailto"),
            ({"unsubscribe": {"category": "news", "url": "https://x.example/" + "x" * 990}}, "unsubscribe"),
        ],
    )
    def test_is_refused_if_its_link_would_not_work(self, fields: dict[str, Any], field: str) -> None:
        assert list(problems(Message(**{"to": [LEYAH], "unsubscribe": "news"} | fields))) == [field]

    def test_is_refused_without_an_endpoint(self) -> None:
        assert problems(Message(to=[LEYAH], unsubscribe="news"), Links(KEY, None)) == {
            "unsubscribe.url": "is missing, and the queue has none"
        }

    @pytest.mark.parametrize("provider", ["microsoft", "icloud"])
    def test_needs_a_link_in_its_body_where_the_header_is_dropped(self, provider: str) -> None:
        message = Message(to=[LEYAH], body="<p>…</p>", unsubscribe="news")
        assert list(problems(message, provider=provider)) == ["unsubscribe"]
        link = f"https://mail.example.com/unsubscribe/{LINKS.token('default', 'news', LEYAH)}"
        planned(message.model_copy(update={"body": f"<a href='{link}'>no more</a>"}), provider=provider)
        planned(message, provider="google")

    @pytest.mark.parametrize("value", [7, ["news"], {"category": 7}, {"category": "news", "what": "x"}, {}])
    def test_of_a_wrong_type_is_refused_at_once(self, value: Any) -> None:
        with pytest.raises(InvalidJob, match="unsubscribe"):
            Message(to=[LEYAH], unsubscribe=value)


class TestAnEndpoint:
    @pytest.mark.parametrize("url", ["https://x.example", "https://x.example:8443/a/b/", "https://[::1]/u"])
    def test_is_an_https_address(self, url: str) -> None:
        assert url_fault(url) is None

    @pytest.mark.parametrize(
        "url",
        [
            "", "http://x.example", "https://", "x.example", "https://x.example/?a=1", "https://x.example/?",
            "https://x.example/#a", "https://a:b@x.example", "https://x.example/a b", "https://x.example/<a>",
            "https://bücher.example", "https://x.example:99999", "https://[::1", "https://x.example/a,b",
        ],
    )  # fmt: skip
    def test_is_nothing_else(self, url: str) -> None:
        assert url_fault(url) is not None
        with pytest.raises(ValueError, match="unsubscribe_url: "):
            SendQueue("sqlite:///never.db", unsubscribe_url=url)


def part(name: str, value: str, extra: str = "") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n{value}\r\n'


class TestTheForm:
    """Of RFC 8058, section 3.2."""

    @pytest.mark.parametrize(
        ("body", "content_type", "asks"),
        [
            ("List-Unsubscribe=One-Click", "application/x-www-form-urlencoded", True),
            ("List-Unsubscribe=One-Click\r\n", "application/x-www-form-urlencoded; charset=UTF-8", True),
            ("List%2DUnsubscribe=One%2dClick", "", True),
            ("a=b&List-Unsubscribe=One-Click&c=", "", True),
            ("foo=List-Unsubscribe=One-Clickbait", "", False),
            ("foo=List-Unsubscribe=One-Click", "", False),
            ("xList-Unsubscribe=One-Click", "", False),
            ("List-Unsubscribe=One-Clickbait", "", False),
            ("List-Unsubscribe", "", False),
            ('{"List-Unsubscribe": "One-Click"}', "application/json", False),
            ("\xff\x00%zz", "", False),
            (part("List-Unsubscribe", "One-Click") + "--b--\r\n", "multipart/form-data; boundary=b", True),
            (part("List-Unsubscribe", "One-Click") + "--b--", 'Multipart/Form-Data; boundary="b"', True),
            (part("a", "b") + part("List-Unsubscribe", "One-Click") + "--b--", "multipart/form-data; boundary=b", True),
            (part("List-Unsubscribe", "One-Clickbait") + "--b--", "multipart/form-data; boundary=b", False),
            (part("a", 'name="List-Unsubscribe"\r\n\r\nOne-Click') + "--b--", "multipart/form-data; boundary=b", False),
            (part("a", "List-Unsubscribe=One-Click") + "--b--", "multipart/form-data; boundary=b", False),
            (part("List-Unsubscribe", "One-Click") + "--b--", "multipart/form-data; boundary=c", False),
            (part("List-Unsubscribe", "One-Click") + "--b--", "multipart/form-data", False),
            ("List-Unsubscribe=One-Click", "multipart/form-data; boundary=b", False),
            ("", "multipart/form-data; boundary=", False),
            ("--b\r\n\r\n", "multipart/form-data; boundary*=x'y'%zz", False),
        ],
    )
    def test_asks_only_with_its_field(self, body: str, content_type: str, asks: bool) -> None:
        assert asks_one_click(body.encode("latin-1"), content_type) is asks
