"""The simulator's reading of form data: the same as Python's own, however it comes in, and nothing kept of files."""

from __future__ import annotations

import email.parser
import email.policy
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.simulator.multipart import HEAD_BYTES, Form, Malformed, Part, boundary_of

# Contents that look like boundaries, and line breaks in all the wrong places.
contents = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\r\n", b"\r\n--", b"--b", b"\r\n--bc", b"\r\n-", b"\r\n\r\n--b"]
)


def form_data(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.bin"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def read(body: bytes, *, at_once: int = 1 << 20) -> list[Part]:
    form = Form(b"b")
    for start in range(0, len(body), at_once):
        form.feed(body[start : start + at_once])
    return form.close()


class TestFormData:
    @given(
        parts=st.lists(contents.filter(lambda one: b"\r\n--b" not in b"\r\n" + one + b"\r\n"), max_size=3),
        at_once=st.integers(1, 80),
    )
    def test_is_read_alike_in_whatever_pieces_it_comes(self, parts: list[bytes], at_once: int) -> None:
        body = form_data(*((f"file{number}", content) for number, content in enumerate(parts)))
        if not parts:
            return
        found = read(body, at_once=at_once)
        assert [(part.name, part.size, part.digest) for part in found] == [
            (f"file{number}", len(content), hashlib.sha256(content).hexdigest()) for number, content in enumerate(parts)
        ]
        head = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        assert [part.get_payload(decode=True) for part in parsed.iter_parts()] == parts

    def test_keeps_the_message_and_no_file(self) -> None:
        message, file = read(form_data(("message", b'{"to":[]}'), ("file0", b"secret")))
        assert (bytes(message.kept), bytes(file.kept)) == (b'{"to":[]}', b"")
        assert file.shown() == {
            "name": "file0", "filename": "file0.bin", "content_type": "image/png", "size": 6, "digest": file.digest,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("head", "filename"),
        [
            ('filename="a.pdf"', "a.pdf"),
            ("filename=a.pdf", "a.pdf"),
            ('filename="ü \\"b\\" \\\\.pdf"', 'ü "b" \\.pdf'),
            ("filename=\"_.pdf\"; filename*=utf-8''%C3%BC.pdf", "ü.pdf"),
            ('filename="a;b.pdf"', "a;b.pdf"),
        ],
    )
    def test_names_its_files(self, head: str, filename: str) -> None:
        body = f'--b\r\nContent-Disposition: form-data; name="f"; {head}\r\n\r\nx\r\n--b--\r\n'.encode()
        assert [part.filename for part in read(body)] == [filename]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"--b",
            b"--b\r\n",
            b"--b--"[:-1],
            form_data(("f", b"x"))[:-6],
            form_data(("f", b"x"), boundary="c"),
            b"--b\r\n\r\nx\r\n--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; filename="x"\r\n\r\nx\r\n--b--\r\n',
            b'--b more\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--b--\r\n',
            b"--b\r\nX: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
        ],
    )
    def test_that_is_none_is_malformed(self, body: bytes) -> None:
        with pytest.raises(Malformed):
            read(body)

    @pytest.mark.parametrize(
        ("content_type", "boundary"),
        [
            ("multipart/form-data; boundary=abc", b"abc"),
            ('multipart/form-data; charset=utf-8; boundary="a b"', b"a b"),
            ("multipart/form-data;boundary=abc; x=y", b"abc"),
        ],
    )
    def test_has_the_boundary_that_its_type_names(self, content_type: str, boundary: bytes) -> None:
        assert boundary_of(content_type) == boundary
