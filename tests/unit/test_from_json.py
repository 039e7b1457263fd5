"""Messages in JSON: what is read, and what is wrong with what cannot be."""

from __future__ import annotations

import base64

import pytest

from sendq import InvalidJob
from sendq.messages.from_json import message_from_json


class TestMessageFromJson:
    def test_has_the_names_of_the_api_and_files_in_base64(self) -> None:
        content = base64.b64encode(b"terms")
        people = b'"to": ["ann@example.com"], "from": ["me@example.com"]'
        file = b'{"filename": "a.txt", "content": "' + content + b'"}'
        message = message_from_json(b"\xef\xbb\xbf{" + people + b', "attachments": [' + file + b"]}")
        assert message.from_[0].email == "me@example.com"
        assert b"".join(message.attachments[0].content.chunks()) == b"terms"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (b'{"to": [,]}', "is not JSON from line 1, column 9 on; correct it"),
            (b"", "is empty; write the fields of the message"),
            (b"\xef\xbb\xbf \n", "is empty; write the fields of the message"),
            (b"{} x", "is not JSON from line 1, column 4 on"),
            (b"\xff{}", "is not UTF-8; encode it as UTF-8"),
            (b"[1]", "is not a JSON object; write the fields of the message"),
            (b'{"to": [], "to": []}', "has an object with the same name twice; leave one out"),
            (b'{"to": NaN}', "has a number that JSON does not have"),
            (b'{"to": ' + b"9" * 5_000 + b"}", "has a number that JSON does not have, or that is too long"),
            (b"[" * 100_000, "is nested too deeply"),
            (b'{"subjct": "x", "to": ["ann@example.com"]}', "subjct: is not a known field"),
            (b'{"from_": ["a@example.com"], "to": ["ann@example.com"]}', "from_: is not a known field"),
            (b'{"to": ["ann@example"], "subject": 7}', "to[0].email: is not an email address"),
            (b'{"to": ["ann@example.com"], "attachments": [{"filename": "a", "content": "%"}]}',
             "attachments[0].content: is not base64; encode the bytes"),
            (b'{"to": ["ann@example.com"], "attachments": ["/etc/hostname"]}', "attachments[0]: "),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong_and_nothing_of_the_text(self, text: bytes, says: str) -> None:
        with pytest.raises(InvalidJob) as refused:
            message_from_json(text)
        assert says in str(refused.value)
        for part in ("ann@", "/etc/hostname", "9" * 9):
            assert part not in str(refused.value)
