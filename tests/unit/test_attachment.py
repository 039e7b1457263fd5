"""What is refused about files, and with which words; as whom a grant may send; finished messages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from sendq import Attachment, InvalidJob, Message, MimeMessage, Send
from sendq.enqueueing.options import Options
from sendq.enqueueing.planning import plan_sends
from sendq.enqueueing.senders import Senders
from sendq.errors import Problem
from sendq.messages.content import MOST_BYTES
from sendq.messages.forms import MAX_JSON_BYTES

NOW = 1_780_000_000_000_000
RAW = b"From: Ann <ann@example.com>\r\nTo: b@example.com\r\nSubject: Hi\r\n\r\nBody\r\n"


def problems(
    message: Message | MimeMessage, *, senders: Senders | None = None, provider: str | None = None
) -> dict[str, str]:
    """What speaks against enqueueing this, by field."""
    send = Send("g1", message, Options(provider=provider))
    try:
        plan_sends([send], indexed=False, now=NOW, metadata_key="key1", senders=senders)
    except InvalidJob as wrong:
        return {problem.field: problem.reason for problem in wrong.problems}
    return {}


def mail(*attachments: Any) -> Message:
    return Message(to=["leyah@example.com"], attachments=attachments)


def file(**fields: Any) -> Attachment:
    return Attachment(**{"filename": "a.txt", "content": b"a", **fields})


class TestAnAttachment:
    def test_may_be_a_dict_or_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "offer.pdf"
        path.write_bytes(b"%PDF")
        message = mail({"filename": "a.txt", "content": b"a"}, path)
        assert [(one.filename, one.type) for one in message.attachments] == [
            ("a.txt", "text/plain"),
            ("offer.pdf", "application/pdf"),
        ]
        assert problems(message) == {}

    @pytest.mark.parametrize(("name", "type"), [("a.PDF", "application/pdf"), ("a", "application/octet-stream")])
    def test_has_the_type_of_its_name_unless_one_is_given(self, name: str, type: str) -> None:
        assert file(filename=name).type == type
        assert file(filename=name, content_type="x/y").type == "x/y"

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"content": "text"}, "attachments[0].content"),
            ({"filename": 5}, "attachments[0].filename"),
            ({"name": "a"}, "attachments[0].name"),
        ],
    )
    def test_of_the_wrong_type_is_refused_where_it_is_built(self, fields: dict[str, Any], path: str) -> None:
        with pytest.raises(InvalidJob) as caught:
            mail({"filename": "a.txt", "content": b"a", **fields})
        assert [problem.field for problem in caught.value.problems] == [path]

    @pytest.mark.parametrize("attachments", ["a.pdf", b"a", Path("a.pdf")])
    def test_belongs_in_a_list(self, attachments: Any) -> None:
        with pytest.raises(InvalidJob, match="attachments: is not a list"):
            Message(to=["a@example.com"], attachments=attachments)

    @pytest.mark.parametrize(
        ("fields", "field", "reason"),
        [
            ({"filename": ""}, "filename", "is empty"),
            ({"filename": "a" * 256}, "filename", "has more than 255 characters"),
            ({"filename": "a\r\nX: y"}, "filename", "contains a line break (CR or LF)"),
            ({"filename": "a\0b"}, "filename", "contains a NUL character"),
            ({"filename": "a\u202egnp.exe"}, "filename", "contains a character that overrides the direction of text"),
            ({"filename": "a\x1b[2J.pdf"}, "filename", "contains a control character (U+001B)"),
            ({"content_type": "pdf"}, "content_type", "is not a valid content type"),
            ({"content_type": "text/plain\r\nX: y"}, "content_type", "is not a valid content type"),
            ({"content_type": "text/plain\n"}, "content_type", "is not a valid content type"),
            ({"content_id": 'a"b'}, "content_id", "is not 1 to 255 printable ASCII"),
            ({"content_id": "<logo>"}, "content_id", "is not 1 to 255 printable ASCII"),
            ({"content_id": ""}, "content_id", "is not 1 to 255 printable ASCII"),
            ({"content_id": "message"}, "content_id", "is also the name of the message's own part"),
            ({"content_disposition": "form-data"}, "content_disposition", "is neither inline nor attachment"),
            ({"content_disposition": "inline"}, "content_disposition", "contradicts the content_id"),
            ({"content_disposition": "attachment", "content_id": "a"}, "content_disposition", "contradicts"),
        ],
    )
    def test_has_names_that_can_be_sent(self, fields: dict[str, Any], field: str, reason: str) -> None:
        found = problems(mail(file(**fields)))
        assert found.keys() == {f"attachments[0].{field}"}
        assert found[f"attachments[0].{field}"].startswith(reason)

    def test_has_a_content_id_of_its_own(self) -> None:
        assert problems(mail(file(content_id="a"), file(content_id="a"))) == {
            "attachments[1].content_id": "is also the name of attachments[0]"
        }
        assert problems(mail(file(content_id="file1"), file())).keys() == {"attachments[1].content_id"}

    @pytest.mark.parametrize("provider", ["microsoft", "ews"])
    def test_has_no_disposition_for_microsoft(self, provider: str) -> None:
        inline = file(content_id="logo", content_disposition="inline")
        assert problems(mail(inline), provider=provider).keys() == {"attachments[0].content_disposition"}
        assert problems(mail(inline), provider="google") == {}
        assert problems(mail(file(content_id="logo")), provider=provider) == {}

    def test_that_cannot_be_read_is_told_with_all_other_problems(self, tmp_path: Path) -> None:
        closed = io.BytesIO(b"a")
        closed.close()
        message = Message(to=["nobody"], attachments=[tmp_path / "no.pdf", file(), file(content=closed)])
        assert problems(message) == {
            "to[0].email": "is not an email address",
            "attachments[0].content": "cannot be read (FileNotFoundError)",
            "attachments[2].content": "cannot be read: the file is closed",
        }

    def test_shows_nothing_of_itself(self) -> None:
        assert repr(file(content_id="secret")) == "Attachment(content=…, content_id=…, filename=…)"


class TestTheSizeOfARequest:
    def test_may_be_25_megabytes_to_the_byte(self) -> None:
        beside = 25_000_000 - length_of(mail(file(content=b"x" * MAX_JSON_BYTES))) + MAX_JSON_BYTES
        assert problems(mail(file(content=b"x" * beside))) == {}
        found = problems(mail(file(content=b"x" * (beside + 1))))
        assert found == {"attachments": "make the request 25,000,001 bytes long; the limit is 25,000,000"}

    def test_counts_all_files_together(self) -> None:
        assert problems(mail(*[file(content=b"x" * 9_000_000) for _ in range(3)])).keys() == {"attachments"}

    def test_is_told_for_a_file_that_was_not_read_to_its_end(self) -> None:
        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return b"x" * size

        found = problems(mail(file(content=Endless())))
        assert found["attachments"].startswith("make the request at least 25,")

    def test_holds_for_a_finished_message_too(self) -> None:
        found = problems(MimeMessage(RAW + b"x" * MOST_BYTES))
        assert found["mime"].startswith("makes the request at least 25,")

    def test_of_the_text_may_be_25_megabytes_to_the_byte(self) -> None:
        def text(size: int, *attachments: Attachment) -> Message:
            return Message(to=["a@example.com"], body="x" * size, attachments=attachments)

        assert problems(text(MAX_JSON_BYTES, file())) == {}
        room = 25_000_000 - length_of(text(MAX_JSON_BYTES)) + MAX_JSON_BYTES
        assert problems(text(room)) == {}
        assert problems(text(room + 1)) == {"body": "makes the request 25,000,001 bytes long; the limit is 25,000,000"}
        assert problems(text(room, file())).keys() == {"attachments"}


def length_of(message: Message) -> int:
    from sendq.messages.wire_format import request_of

    return request_of(message, job_id="0" * 36, metadata_key="key1").length


class TestAFinishedMessage:
    def test_is_fine_as_python_makes_it(self) -> None:
        from email.message import EmailMessage

        made = EmailMessage()
        made["From"], made["To"], made["Subject"] = "ann@example.com", "Béa <b@example.com>", "Grüße"
        made.set_content("Hallo")
        made.add_attachment(b"x" * 500_000, maintype="application", subtype="pdf", filename="a.pdf")
        assert problems(MimeMessage(made.as_bytes())) == {}

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"", "does not begin with a header"),
            (b"\r\nTo: a@example.com\r\n\r\n", "does not begin with a header"),
            (b"From nobody Mon Nov 23\nTo: a@example.com\n\n", "does not begin with a header"),
            (b"To: a@example.com\r\n", "has no empty line after its headers"),
            (b"To: a@example.com\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", "has no empty line after its headers"),
            (b"From: a@example.com\r\n\r\nTo: b@example.com\r\n", "has no recipient in To, Cc or Bcc"),
            (b"To: a@example.com\r\nx-sendq-job: 1\r\n\r\n", "has the header X-Sendq-Job"),
            (
                b"DKIM-Signature: v=1; a=rsa-sha256; h=from : to :\r\n x-sendq-job; b=abc\r\nTo: a@example.com\r\n\r\n",
                "has a DKIM signature over X-Sendq-Job",
            ),
        ],
    )
    def test_must_be_one(self, raw: bytes, reason: str) -> None:
        assert problems(MimeMessage(raw))["mime"].startswith(reason)

    def test_may_be_signed(self) -> None:
        signed = b"DKIM-Signature: v=1; a=rsa-sha256; h=from:to; bh=x=; b=abc=\r\n" + RAW
        assert problems(MimeMessage(signed)) == {}

    def test_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        assert problems(MimeMessage(tmp_path / "no.eml")) == {"mime": "cannot be read (FileNotFoundError)"}

    def test_has_at_most_500_recipients_for_microsoft(self) -> None:
        many = b"Cc: " + b",\r\n ".join(b"a%d@example.com" % number for number in range(500)) + b"\r\n" + RAW
        assert "500 recipients" in problems(MimeMessage(many), provider="microsoft")["mime"]
        assert problems(MimeMessage(many)) == {}

    def test_shows_nothing_of_itself(self) -> None:
        assert repr(MimeMessage(RAW)) == "MimeMessage(…)"


class TestTheSender:
    def from_(self, address: str) -> Message:
        return Message(to=["leyah@example.com"], from_=[address])

    @pytest.mark.parametrize("senders", [{"g1": ["ann@example.com"]}, lambda grant: {"ann@example.com"}])
    def test_must_be_one_of_the_grants_addresses(self, senders: Senders) -> None:
        assert problems(self.from_("Ann <ANN@example.com>"), senders=senders) == {}
        assert problems(self.from_("bob@example.com"), senders=senders) == {
            "from": "is not an address that this grant may send as"
        }

    def test_of_a_finished_message_must_be_too(self) -> None:
        assert problems(MimeMessage(RAW), senders={"g1": ["ann@example.com"]}) == {}
        assert problems(MimeMessage(RAW), senders={"g1": ["bob@example.com"]}).keys() == {"mime.From"}

    @pytest.mark.parametrize("senders", [None, {}, {"g2": ["ann@example.com"]}, lambda grant: None])
    def test_is_not_checked_where_nothing_is_known(self, senders: Senders | None) -> None:
        assert problems(self.from_("bob@example.com"), senders=senders) == {}

    def test_may_be_left_out(self) -> None:
        assert problems(mail(), senders={"g1": []}) == {}
        assert problems(self.from_("ann@example.com"), senders={"g1": []}).keys() == {"from"}

    def test_is_compared_in_the_form_it_is_sent_in(self) -> None:
        assert problems(self.from_("a@bücher.example"), senders={"g1": ["a@xn--bcher-kva.example"]}) == {}

    def test_given_as_one_string_is_a_mistake_of_the_program(self) -> None:
        with pytest.raises(TypeError, match="use a list"):
            problems(self.from_("ann@example.com"), senders={"g1": "ann@example.com"})

    def test_is_not_shown_when_it_is_refused(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan_sends(
                [Send("g1", self.from_("secret@example.com"))],
                indexed=True, now=NOW, metadata_key="key1", senders={"g1": ["other@example.com"]},
            )  # fmt: skip
        assert caught.value.problems == (
            Problem(
                "[0].from",
                "is not an address that this grant may send as",
                "use the grant's own address or an alias, or leave it out",
            ),
        )
        assert "secret" not in str(caught.value)


class TestATemplate:
    def test_goes_out_as_it_is(self) -> None:
        import json

        from sendq.messages.payload import freeze_send

        template = {"id": "t-1", "strict": False, "variables": {"b": "2", "a": "1"}}
        message = Message(to=["a@example.com"], template=template, signature_id="s-1")
        frozen = json.loads(freeze_send(message, job_id="J"))
        assert (frozen["template"], frozen["signature_id"]) == (template, "s-1")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"template": {"id": ""}}, "template.id"),
            ({"template": {"id": "a\nb"}}, "template.id"),
            ({"template": {"id": "t", "variables": {"a": "\0"}}}, "template.variables[a]"),
            ({"template": {"id": "t", "variables": {"a": "x" * 25_000_000}}}, "template.variables"),
            ({"signature_id": ""}, "signature_id"),
        ],
    )
    def test_has_values_that_can_be_sent(self, fields: dict[str, Any], field: str) -> None:
        assert problems(Message(to=["a@example.com"], **fields)).keys() == {field}

    def test_has_variables_that_are_strings(self) -> None:
        with pytest.raises(InvalidJob, match=r"template\.variables\[a\]: is not a string"):
            Message(to=["a@example.com"], template={"id": "t", "variables": {"a": 5}})
