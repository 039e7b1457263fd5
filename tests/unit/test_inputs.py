"""What people pass to a queue, from their bug reports: accepted as meant, or refused in words that say why."""

from __future__ import annotations

from typing import Any

import pytest

from sendq import Attachment, Message, MimeMessage, Options, Send
from sendq.enqueueing.planning import plan_sends
from sendq.enqueueing.senders import Senders
from sendq.errors import InvalidJob
from sendq.messages.characters import header_fault
from sendq.messages.content import CHUNK

ME: Senders = {"g": ["me@example.com"]}


def form_of(message: Message | MimeMessage, provider: str | None = None, senders: Senders | None = None) -> str:
    """The form in which ``message`` is sent. Raises what `send` raises."""
    sends = [Send("g", message, Options(provider=provider))]
    planned = plan_sends(sends, indexed=False, now=1_790_000_000_000_000, metadata_key="key1", senders=senders)
    (job,) = planned.plan.jobs
    return str(job["form"])


def refusal(message: Message | MimeMessage, provider: str | None = None, senders: Senders | None = None) -> str:
    with pytest.raises(InvalidJob) as caught:
        form_of(message, provider, senders)
    return str(caught.value)


APART = ("Call \u202a+1 555 0100\u202c", "\u202b\u05e9\u05dc\u05d5\u05dd\u202c", "\u2068Anna\u2069")


@pytest.mark.parametrize("text", APART)
def test_text_that_is_only_kept_apart_by_its_direction_may_stand_in_a_header(text: str) -> None:
    assert header_fault(text) is None


@pytest.mark.parametrize("name", ["From", "Sender", "Subject", "Reply-To", "MIME-Version", "Content-Type"])
def test_a_header_that_may_occur_once_does_not_occur_twice(name: str) -> None:
    value = "text/plain" if name == "Content-Type" else "a@example.com"
    said = refusal(mime("To: b@example.com", f"{name}: {value}", f"{name.upper()}: {value}"))
    assert f"mime.{name.lower()}" in said
    assert "occurs 2 times" in said


def test_every_from_is_a_sender() -> None:
    message = mime("To: b@example.com", "From: ceo@victim.example", "from: a@example.com")
    assert message.senders() == {"From": ["ceo@victim.example", "a@example.com"]}


def mime(*headers: str, body: bytes = b"Hi\r\n") -> MimeMessage:
    return MimeMessage("\r\n".join([*headers, "", ""]).encode() + body)


class TestTheRecipientsOfAFinishedMessage:
    @pytest.mark.parametrize(
        "to",
        [
            "Jane (a, b) <jane@example.com>",
            "a@example.com <a@example.com>",
            "a@example.com,, b@example.com,",
            "Team: a@example.com, b@example.com;",
            "jane@example.com (Jane)",
            "=?utf-8?b?SmFuZQ==?= <jane@example.com>",
            '"jane."@docomo.ne.jp',
        ],
    )
    def test_may_be_written_in_every_valid_or_usual_way(self, to: str) -> None:
        assert form_of(mime(f"To: {to}")) == "mime"

    def test_are_counted_with_the_unusual_ones(self) -> None:
        people = ", ".join([*(f"a{number}@example.com" for number in range(600)), "x@x.example <b@example.com>"])
        assert "more than 500 recipients" in refusal(mime(f"To: {people}"), provider="microsoft")
        assert "no recipient" not in refusal(mime(f"To: {people}"), provider="microsoft")

    @pytest.mark.parametrize("hidden", ["Bcc", "Bcc ", "bcc\t", "Resent-To", "Resent-Bcc", "Apparently-To"])
    def test_are_counted_wherever_mail_may_go(self, hidden: str) -> None:
        people = ", ".join(f"a{number}@example.com" for number in range(500))
        message = mime("To: b@example.com", f"{hidden}: {people}")
        assert form_of(message) == "mime"
        assert "more than 500 recipients" in refusal(message, provider="microsoft")

    @pytest.mark.parametrize("header", ["To", "Cc", "Bcc", "Bcc ", "Reply-To", "From", "Sender", "Resent-To"])
    @pytest.mark.parametrize(
        ("address", "word"),
        [
            ("josé@example.com", "outside ASCII before the @"),
            ("a@münchen.example", "ASCII form"),
            ("nobody", "is not an email address"),
            ("jane doe@example.com", "white space"),
            ("jane.@example.com", "quotes"),
            ("Jane <jane@example.com> (x", "is not a list of addresses"),
            ("<>", "is not an email address"),
        ],
    )
    def test_are_checked_like_those_of_a_message(self, header: str, address: str, word: str) -> None:
        said = refusal(mime("To: a@example.com", f"{header}: {address}"))
        assert word in said
        assert f"mime.{header.strip()}" in said
        assert "jane" not in said.lower()

    def test_do_not_hide_below_a_line_that_is_no_header(self) -> None:
        said = refusal(mime("To: a@example.com", "what follows", "Bcc: b@example.com"))
        assert "neither a header" in said


class TestTheSenderOfAFinishedMessage:
    @pytest.mark.parametrize(
        "sender",
        [
            "From: Boss <boss@corp.example> (x",
            "From: Boss <boss@corp.example>",
            "From : boss@corp.example",
            "From: me@example.com <boss@corp.example>",
            "From: me@example.com, boss@corp.example",
            'From: "me@example.com" <boss@corp.example>',
            "From: <@me@example.com:boss@corp.example>",
            "From: Boss:;",
            "From:",
            "From: me@example.com\r\nSender: boss@corp.example",
            "From: me@example.com\r\nFrom: boss@corp.example",
            "Resent-From: boss@corp.example\r\nFrom: me@example.com",
        ],
    )
    def test_is_one_of_the_grants_however_it_is_written(self, sender: str) -> None:
        assert refusal(mime("To: a@example.com", sender), senders=ME)

    @pytest.mark.parametrize("sender", ["Me (x, y) <me@example.com>", "ME@EXAMPLE.COM", "me @ example.com"])
    def test_that_is_one_passes(self, sender: str) -> None:
        assert form_of(mime("To: a@example.com", f"From: {sender}"), senders=ME) == "mime"


class TestTheBytesOfAFinishedMessage:
    @pytest.mark.parametrize(
        ("body", "word"),
        [
            (b"a\0b", "NUL"),
            (b"a\rb", "CR without LF"),
            (b"a\r", "CR without LF"),
            (b"a\r\r\nb", "CR without LF"),
            (b"x" * (2 * CHUNK) + b"\0", "NUL"),
            (b"x" * CHUNK + b"\r" + b"x" * CHUNK, "CR without LF"),
        ],
    )
    def test_include_no_nul_and_no_bare_cr(self, body: bytes, word: str) -> None:
        assert word in refusal(mime("To: a@example.com", body=body))

    def test_may_end_a_line_at_the_end_of_a_chunk(self) -> None:
        head = b"To: a@example.com\r\n\r\n"
        for size in range(CHUNK - len(head) - 2, CHUNK - len(head) + 2):
            assert form_of(MimeMessage(head + b"x" * size + b"\r\n" + b"x" * 10)) == "mime"

    @pytest.mark.parametrize("value", ["a\vb", "a\u2028b", "a\u202eb", "a\x07b", "a\x85b"])
    def test_include_no_such_character_in_a_header(self, value: str) -> None:
        assert "mime.Subject: contains" in refusal(mime("To: a@example.com", f"Subject: {value}"))


class TestAnAddress:
    @pytest.mark.parametrize(
        "text",
        [
            "Jane < jane@example.com >",
            " jane@example.com",
            "jane@example.com\n",
            "\u200bjane@example.com\ufeff",
            "\u202ajane@example.com\u202c",
            "\u00a0Jane <\tjane@example.com\u200b> ",
        ],
    )
    def test_goes_out_without_what_is_around_it(self, text: str) -> None:
        message = Message(to=[text])
        assert form_of(message) == "json"
        assert message.to[0].email == "jane@example.com"

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("jane @example.com", "white space"),
            ("jane@example.com\nBcc: b@example.com", "line break"),
            ("jane@exam\u200bple.com", "invisible character (U+200B)"),
            ("jane.@docomo.ne.jp", "valid only in quotes"),
            ('"jane,b"@example.com', "quotes"),
        ],
    )
    def test_is_refused_in_words_that_say_why(self, text: str, word: str) -> None:
        assert word in refusal(Message(to=[{"email": text}]))

    def test_may_have_quotes_as_real_ones_do(self) -> None:
        assert form_of(Message(to=['"jane."@docomo.ne.jp', 'Jane <"jane."@docomo.ne.jp>'])) == "json"


class TestCharactersThatCannotBeSeen:
    @pytest.mark.parametrize(
        "text", ["a\x0b\x0cb", "a\x0bb\x85c\u2028d", "a\x07", "\x1b[31m", "a\x7f", "a\u202egnp.exe"]
    )
    @pytest.mark.parametrize(
        "make",
        [
            lambda text: {"subject": text},
            lambda text: {"custom_headers": [{"name": "X-A", "value": text}]},
            lambda text: {"to": [{"email": "a@example.com", "name": text}]},
            lambda text: {"attachments": [Attachment(filename=text, content=b"x")]},
        ],
    )
    def test_are_refused_in_every_header_and_name(self, make: Any, text: str) -> None:
        assert "contains" in refusal(Message(**{"to": ["a@example.com"], **make(text)}))


class TestALongText:
    def test_goes_as_form_data_with_files_and_without(self) -> None:
        body = "<img src='data:image/png;base64," + "A" * 3_200_000 + "'>"
        assert form_of(Message(to=["a@example.com"], body=body)) == "multipart"
        small = Attachment(filename="a.txt", content=b"x")
        assert form_of(Message(to=["a@example.com"], body=body, attachments=[small])) == "multipart"
        assert form_of(Message(to=["a@example.com"], body="x", attachments=[small])) == "json"
