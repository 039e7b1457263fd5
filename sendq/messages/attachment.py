"""`Attachment`: a file on a message.

    Attachment(filename="offer.pdf", content=Path("/srv/offers/42.pdf"))
    Attachment(filename="logo.png", content=png, content_id="logo")         <img src="cid:logo"> in the body

An attachment with a ``content_id`` that the body refers to is shown there (inline). The size of the whole request
decides how files are sent (`sendq.messages.wire_format`). Whether they can be sent is checked at enqueue.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from mimetypes import MimeTypes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Self

from pydantic import BeforeValidator, ConfigDict, StrictStr

from sendq.errors import Problem
from sendq.messages.characters import header_fault
from sendq.messages.content import Content, ContentFault
from sendq.messages.parts import Part

MAX_FILENAME = 255  # characters; what most file systems take
MAX_CONTENT_ID = 255

# Names of the parts of a multipart request; files without a content id are named as Nylas's own clients name them.
MESSAGE_PART = "message"
_FILE_PART = "file{}"

_DISPOSITIONS = ("inline", "attachment")
_WITHOUT_DISPOSITION = ("microsoft", "ews")

# RFC 2045, section 5.1: type and subtype are tokens; parameters may follow.
_content_type = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: *;[ -~]*)?").fullmatch
# What is valid after "cid:", between angle brackets, and without escapes in a part's name.
_content_id = re.compile(r"[!#$%&'*+.,/0-9:=?@A-Z^_`a-z{|}~-]+").fullmatch

# Python's own table only: with the machine's, the same call would have another digest on another machine.
_TYPES = MimeTypes()
ANY_TYPE = "application/octet-stream"


class Attachment(Part):
    """A file on a message.

    Attributes:
        filename: the name to show.
        content: bytes, a path, or a binary file object, which is read from its current position.
        content_type: default: guessed from the name.
        content_id: makes the file inline: the body refers to it as ``cid:…``.
        content_disposition: ``inline`` or ``attachment``. Not needed, since ``content_id`` decides, and not supported
            for Microsoft and EWS.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    filename: StrictStr
    content: Annotated[Content, BeforeValidator(Content.of)]
    content_type: StrictStr | None = None
    content_id: StrictStr | None = None
    content_disposition: StrictStr | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            /,
            *,
            filename: str,
            content: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Content,
            content_type: str | None = None,
            content_id: str | None = None,
            content_disposition: str | None = None,
        ) -> None: ...

    @classmethod
    def of(cls, item: object) -> Self:
        """As for every part, or from a path: the file under its own name."""
        if isinstance(item, os.PathLike):
            path = Path(item)
            return cls(filename=path.name, content=path)
        return super().of(item)

    @property
    def type(self) -> str:
        """The content type, set or guessed."""
        return self.content_type or _TYPES.guess_type(self.filename)[0] or ANY_TYPE

    def described(self) -> dict[str, Any]:
        """All fields except the content, by their names in the API."""
        found = {"filename": self.filename, "content_type": self.type}
        further = {"content_id": self.content_id, "content_disposition": self.content_disposition}
        return found | {name: value for name, value in further.items() if value is not None}


def part_names(attachments: Sequence[Attachment]) -> list[str]:
    """The names of the files' parts in a multipart request: the content id, which the API reads from there."""
    return [one.content_id or _FILE_PART.format(index) for index, one in enumerate(attachments)]


def attachment_problems(attachments: Sequence[Attachment], *, provider: str | None = None) -> list[Problem]:
    """What is wrong with names, types and ids; contents are not read."""
    problems: list[Problem] = []
    for index, one in enumerate(attachments):
        problems += [problem.under(f"attachments[{index}]") for problem in _faults(one, provider)]
    taken = {MESSAGE_PART: "the message's own part"}
    for index, name in enumerate(part_names(attachments)):
        if name in taken:
            reason = f"is also the name of {taken[name]}"
            problems.append(Problem(f"attachments[{index}].content_id", reason, "give each file a different one"))
        taken.setdefault(name, f"attachments[{index}]")
    return problems


def content_problems(attachments: Sequence[Attachment]) -> list[Problem]:
    """Which contents cannot be read, and why. Measures the others."""
    problems = []
    for index, one in enumerate(attachments):
        try:
            one.content.measure()
        except ContentFault as fault:
            problems.append(Problem(f"attachments[{index}].content", fault.reason, fault.remedy))
    return problems


def _faults(one: Attachment, provider: str | None) -> list[Problem]:
    problems = []
    if not one.filename:
        problems.append(Problem("filename", "is empty", "name the file"))
    elif len(one.filename) > MAX_FILENAME:
        problems.append(Problem("filename", f"has more than {MAX_FILENAME} characters", "shorten it"))
    if (fault := header_fault(one.filename)) is not None:
        problems.append(Problem("filename", fault, "remove it"))
    if one.content_type is not None and not _content_type(one.content_type):
        problems.append(
            Problem("content_type", "is not a valid content type", "write it as type/subtype, or leave it out")
        )
    if one.content_id is not None and (len(one.content_id) > MAX_CONTENT_ID or not _content_id(one.content_id)):
        reason = f"is not 1 to {MAX_CONTENT_ID} printable ASCII characters without spaces, quotes and brackets"
        problems.append(Problem("content_id", reason, "use one like logo or logo@example.com"))
    if one.content_disposition is not None:
        problems += _disposition_faults(one, provider)
    return problems


def _disposition_faults(one: Attachment, provider: str | None) -> list[Problem]:
    field = "content_disposition"
    if one.content_disposition not in _DISPOSITIONS:
        return [Problem(field, "is neither inline nor attachment", "use one of them, or leave it out")]
    if provider in _WITHOUT_DISPOSITION:
        return [
            Problem(field, "is not supported for Microsoft and EWS", "leave it out; a content_id makes a file inline")
        ]
    # A multipart request has no field for it, and the meaning of a message must not depend on its size.
    if (one.content_disposition == "inline") is not (one.content_id is not None):
        return [Problem(field, "contradicts the content_id, which makes a file inline", "set both, or neither")]
    return []
