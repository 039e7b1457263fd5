"""The three forms of a send request: exact bytes, exact lengths, and the same bytes again."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages.attachment import Attachment
from sendq.messages.content import CHUNK
from sendq.messages.forms import MAX_JSON_BYTES
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.payload import freeze_send, mime_digest, send_digest
from sendq.messages.wire_format import Request, request_of

JOB = "0197a1b2-0000-7000-8000-000000000001"
BOUNDARY = "sendq-0197a1b2000070008000000000000001"
PNG = Attachment(filename="logo.png", content=b"\x89PNG\r\n", content_id="logo", content_disposition="inline")
LARGE = b"x" * MAX_JSON_BYTES


def mail(*attachments: Attachment, **fields: Any) -> Message:
    return Message(**{"to": ["leyah@example.com"], "subject": "Grüße", "attachments": attachments, **fields})


def request(message: Message | MimeMessage, job: str = JOB) -> Request:
    return request_of(message, job_id=job, metadata_key="key1")


def whole(request: Request) -> bytes:
    """All that goes over the wire, put together in one piece."""
    body = request.opening
    for piece in request.pieces:
        content = b"".join(piece.content.chunks())
        body += (base64.b64encode(content) if request.form == "json" else content) + piece.after
    return body


class TestAMessageWithoutFiles:
    def test_is_the_frozen_json_alone(self) -> None:
        made = request(mail())
        assert (made.form, made.content_type, made.pieces) == ("json", "application/json", ())
        assert made.opening == freeze_send(mail(), job_id=JOB)
        assert made.length == len(made.opening)


class TestASmallMessageWithFiles:
    def test_is_exactly_this_json(self) -> None:
        made = request(mail(PNG, Attachment(filename='a "b".txt', content=b"abcd", content_type="text/plain")))
        assert (made.form, made.content_type) == ("json", "application/json")
        assert whole(made).decode() == (
            '{"to":[{"email":"leyah@example.com"}],"subject":"Grüße",'
            f'"metadata":{{"key1":"{JOB}"}},"custom_headers":[{{"name":"X-Sendq-Job","value":"{JOB}"}}],"attachments":['
            '{"filename":"logo.png","content_type":"image/png","content_id":"logo","content_disposition":"inline",'
            '"content":"iVBORw0K"},'
            '{"filename":"a \\"b\\".txt","content_type":"text/plain","content":"YWJjZA=="}]}'
        )

    @given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.integers(0, 2 * CHUNK + 5)), max_size=4))
    def test_is_json_with_the_contents_in_base64_and_as_long_as_it_says(self, files: list[tuple[str, int]]) -> None:
        attachments = [Attachment(filename=name, content=b"\xfb" * size) for name, size in files]
        made = request(mail(*attachments))
        body = whole(made)
        assert len(body) == made.length
        shown = json.loads(body).get("attachments", [])
        assert [(one["filename"], len(base64.b64decode(one["content"]))) for one in shown] == files

    def test_is_json_up_to_3_megabytes_of_request(self) -> None:
        room = MAX_JSON_BYTES - request(mail(Attachment(filename="a", content=b""))).length
        fits = request(mail(Attachment(filename="a", content=b"x" * (room // 4 * 3))))
        over = request(mail(Attachment(filename="a", content=b"x" * (room // 4 * 3 + 1))))
        assert (fits.form, over.form) == ("json", "multipart")
        assert MAX_JSON_BYTES - 4 < fits.length <= MAX_JSON_BYTES


class TestALargeMessageWithFiles:
    def test_is_exactly_this_form_data(self) -> None:
        made = request(mail(PNG, Attachment(filename='ü "b".bin', content=LARGE)))
        assert (made.form, made.content_type) == ("multipart", f"multipart/form-data; boundary={BOUNDARY}")
        before = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="message"\r\nContent-Type: application/json\r\n\r\n'
            '{"to":[{"email":"leyah@example.com"}],"subject":"Grüße",'
            f'"metadata":{{"key1":"{JOB}"}},"custom_headers":[{{"name":"X-Sendq-Job","value":"{JOB}"}}]}}\r\n'
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="logo"; filename="logo.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        between = (
            f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="file1"; filename="ü \\"b\\".bin"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = before.encode() + b"\x89PNG\r\n" + between.encode() + LARGE + f"\r\n--{BOUNDARY}--\r\n".encode()
        assert whole(made) == body

    def test_is_as_long_as_it_says(self) -> None:
        made = request(mail(PNG, Attachment(filename="a.bin", content=LARGE)))
        assert len(whole(made)) == made.length

    def test_is_read_back_by_pythons_own_parser(self) -> None:
        made = request(mail(PNG, Attachment(filename="a.bin", content=LARGE)))
        head = f"Content-Type: {made.content_type}\r\n\r\n".encode()
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + whole(made))
        parts = list(parsed.iter_parts())
        assert [part.get_param("name", header="content-disposition") for part in parts] == ["message", "logo", "file1"]
        text, *files = (part.get_payload(decode=True) for part in parts)
        assert isinstance(text, bytes)
        assert json.loads(text)["metadata"] == {"key1": JOB}
        assert files == [b"\x89PNG\r\n", LARGE]


class TestALongText:
    TEXT = "<p>" + "x" * MAX_JSON_BYTES

    def test_is_form_data_with_the_text_as_a_content_that_is_streamed(self) -> None:
        made = request(mail(body=self.TEXT))
        assert (made.form, made.content_type) == ("multipart", f"multipart/form-data; boundary={BOUNDARY}")
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="message"\r\nContent-Type: application/json\r\n\r\n'
        )
        (piece,) = made.pieces
        text = b"".join(piece.content.chunks())
        assert (made.opening, piece.after) == (head.encode(), f"\r\n--{BOUNDARY}--\r\n".encode())
        assert text == freeze_send(mail(body=self.TEXT), job_id=JOB)
        assert made.length == len(whole(made))

    def test_comes_before_the_files(self) -> None:
        made = request(mail(PNG, body=self.TEXT))
        head = f"Content-Type: {made.content_type}\r\n\r\n".encode()
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + whole(made))
        parts = list(parsed.iter_parts())
        assert [part.get_param("name", header="content-disposition") for part in parts] == ["message", "logo"]
        text, logo = (part.get_payload(decode=True) for part in parts)
        assert isinstance(text, bytes)
        assert json.loads(text)["body"] == self.TEXT
        assert logo == b"\x89PNG\r\n"
        assert made.length == len(whole(made))


class TestAFinishedMessage:
    RAW = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: Hi\r\n\r\nBody\r\n"

    def test_is_exactly_this_form_data(self) -> None:
        made = request(MimeMessage(self.RAW))
        assert (made.form, made.content_type) == ("mime", f"multipart/form-data; boundary={BOUNDARY}")
        assert (
            whole(made)
            == (
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="mime"; filename="message.eml"\r\n'
                f"Content-Type: message/rfc822\r\n\r\nX-Sendq-Job: {JOB}\r\n"
            ).encode()
            + self.RAW
            + f"\r\n--{BOUNDARY}--\r\n".encode()
        )
        assert len(whole(made)) == made.length

    def test_keeps_its_own_line_endings(self) -> None:
        raw = self.RAW.replace(b"\r\n", b"\n")
        assert f"X-Sendq-Job: {JOB}\n".encode() + raw in whole(request(MimeMessage(raw)))


class TestARepeat:
    @pytest.mark.parametrize("size", [10, MAX_JSON_BYTES])
    def test_is_the_same_bytes(self, size: int) -> None:
        def message() -> Message:
            return mail(PNG, Attachment(filename="a.bin", content=b"x" * size))

        assert whole(request(message())) == whole(request(message()))
        assert whole(request(message())) != whole(request(message(), JOB.replace("1", "2")))


class TestTheDigest:
    def digest(self, message: Message | MimeMessage) -> bytes:
        given: dict[str, Any] = {"application": "default", "grant_id": "g1"}
        return mime_digest(message, **given) if isinstance(message, MimeMessage) else send_digest(message, **given)

    def test_tells_files_apart_by_name_type_id_and_content(self) -> None:
        def one(**fields: Any) -> Message:
            return mail(Attachment(**{"filename": "a.txt", "content": b"a", **fields}))

        messages: list[Message | MimeMessage] = [
            mail(),
            one(),
            one(content=b"b"),
            one(filename="b.txt"),
            one(content_type="text/html"),
            one(content_id="a"),
            mail(PNG, Attachment(filename="a.txt", content=b"a")),
            MimeMessage(b"To: a@example.com\n\n"),
            MimeMessage(b"To: b@example.com\n\n"),
        ]
        assert len({self.digest(message) for message in messages}) == len(messages)

    def test_is_the_same_however_a_file_is_given(self, tmp_path: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"a")
        given = [b"a", bytearray(b"a"), path]
        assert len({self.digest(mail(Attachment(filename="a.txt", content=one))) for one in given}) == 1
        assert self.digest(mail(Attachment.of(path))) == self.digest(mail(Attachment(filename="a.txt", content=b"a")))

    def test_does_not_depend_on_what_is_guessed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.digest(mail(PNG))
        monkeypatch.setattr(Attachment, "type", "image/of-a-later-python")
        assert self.digest(mail(PNG)) == before

    def test_is_the_same_for_good(self) -> None:
        # Stored digests are compared with new ones for years: if this fails, every repeated key becomes a conflict.
        assert self.digest(mail(PNG)).hex() == "6355b0f72ad2e98ee5a13f5c69f1502bf0d2cd8f0344ffbbc04108ef69a7b71f"
        assert (
            self.digest(MimeMessage(b"To: a@example.com\n\n")).hex()
            == "6b6409ea1b80bc4aca970da615e4632dbd4c4b6257f744d9e4675ea9baee5b0c"
        )
