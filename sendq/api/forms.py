"""A message with files as ``multipart/form-data`` (RFC 7578).

    send            the JSON of the request
    attachments     a file; as often as needed
    mime            a finished message, instead of ``message`` in the JSON
    any other name  a file that the body shows as ``cid:NAME``

Files that are larger than a megabyte are kept in temporary files without a name, until the operation has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from sendq.api.bodies import FORM_MOST, FORM_TYPE, JSON_MOST, Incoming
from sendq.api.problems import Refused
from sendq.messages.attachment import Attachment
from sendq.messages.content import Content

JSON_PART, FILES_PART, MIME_PART = "send", "attachments", "mime"
FILES_MOST = 200


class Form(NamedTuple):
    """What a form contains: the JSON, the files, and the finished message, if there is one."""

    given: Any
    files: tuple[Attachment, ...]
    mime: Content | None
    data: FormData  # to be closed once the files have been read


class _Parser(MultiPartParser):
    """Starlette's parser, but texts keep their bytes, and a form without its end is refused: its last file is lost."""

    def __init__(self, incoming: Incoming) -> None:
        # One text beside the files, and room to find out that there are more.
        super().__init__(
            incoming.headers,
            self._whole(incoming.stream(FORM_MOST)),
            max_files=FILES_MOST,
            max_fields=2,
            max_part_size=JSON_MOST,
        )
        self._ended = False

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            self.items.append((part.field_name, part.data.decode("latin-1")))  # its bytes, one by one
        else:
            super().on_part_end()

    def on_end(self) -> None:
        self._ended = True

    async def _whole(self, stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._ended:
            raise Refused("malformed", "The form has no end: its last boundary is missing.")


async def form_of(incoming: Incoming) -> Form:
    """The form in the body. Raises `Refused`."""
    incoming.require(FORM_TYPE, most=FORM_MOST)
    try:
        data = await _Parser(incoming).parse()
    except MultiPartException:
        detail = f"The form cannot be read: its parts are `{JSON_PART}`, and at most {FILES_MOST} files."
        raise Refused("malformed", detail) from None
    try:
        return await _read(data, incoming)
    except BaseException:
        await data.close()
        raise


async def _read(data: FormData, incoming: Incoming) -> Form:
    texts, files, mimes = [], [], []
    for name, value in data.multi_items():
        if name == JSON_PART:
            texts.append(await value.read() if isinstance(value, UploadFile) else value.encode("latin-1"))
        elif not isinstance(value, UploadFile):
            raise Refused("malformed", f"The form has a part that is neither `{JSON_PART}` nor a file.")
        elif name == MIME_PART:
            mimes.append(Content.of(value.file))
        else:
            files.append(_attachment(name, value))
    if len(texts) != 1 or len(mimes) > 1:
        detail = f"The form needs one part `{JSON_PART}`, the JSON of the request, and has at most one `{MIME_PART}`."
        raise Refused("malformed", detail)
    given = await incoming.parsed(texts[0], f"The part `{JSON_PART}`")
    return Form(given, tuple(files), mimes[0] if mimes else None, data)


def _attachment(name: str, file: UploadFile) -> Attachment:
    return Attachment(
        filename=file.filename or "",
        content=file.file,
        content_type=file.content_type or None,
        content_id=None if name == FILES_PART else name,
    )
