"""Read a request's body in chunks, optionally at a limited rate, without storing its files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field

from sendq.simulator.checks import MAX_MULTIPART
from sendq.simulator.multipart import KEPT, Form, Malformed, Part, boundary_of

# An endless body is rejected after this many bytes; one slightly above the limit is read to its end, so that the client
# gets the answer.
MOST = 2 * MAX_MULTIPART


@dataclass(slots=True)
class Body:
    """The body. ``kept`` is all of it, except for form data, which is in ``parts``.

    ``digest`` is the SHA-256 of all of it. ``malformed``: why it is not valid form data.
    """

    size: int = 0
    kept: bytes = b""
    digest: str = ""
    parts: list[Part] = field(default_factory=list)
    malformed: str = ""

    def text(self) -> bytes:
        """What a request says beside its files: all of it, or of form data its message."""
        said = [part for part in self.parts if part.name in KEPT]
        if not said:
            return self.kept
        kept = bytes(said[0].kept)
        return kept if said[0].name == "message" else kept.replace(b"\r\n", b"\n").partition(b"\n\n")[0] + b"\n\n"


async def take_in(
    pieces: AsyncIterable[bytes], content_type: str, *, bytes_per_s: float | None, came: Callable[[int], None]
) -> Body:
    """Read a body to its end, or to `MOST`. ``came`` hears of each piece's size."""
    body, digest, kept = Body(), hashlib.sha256(), bytearray()
    form = _form(content_type, body)
    async for piece in pieces:
        body.size += len(piece)
        came(len(piece))
        digest.update(piece)
        if form is not None:
            form = _fed(form, piece, body)
        elif not body.malformed and body.size <= MOST:
            kept += piece
        if body.size > MOST:
            break
        if bytes_per_s is not None:
            await asyncio.sleep(len(piece) / bytes_per_s)
    if form is not None:
        try:
            body.parts = form.close()
        except Malformed as error:
            body.malformed = str(error)
    body.kept, body.digest = bytes(kept), digest.hexdigest()
    return body


def _form(content_type: str, body: Body) -> Form | None:
    if not content_type.startswith("multipart/form-data"):
        return None
    try:
        return Form(boundary_of(content_type))
    except Malformed as error:
        body.malformed = str(error)
        return None


def _fed(form: Form, piece: bytes, body: Body) -> Form | None:
    try:
        form.feed(piece)
        return form
    except Malformed as error:
        body.malformed = str(error)
        return None
