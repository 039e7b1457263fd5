"""The body of a request with files: read from the ledger piece by piece while it is being sent.

    opening · content · after · content · after
              └ chunk by chunk; as base64 in a JSON request

Nothing is read ahead: the next chunk is read when the socket has taken the previous one, so that a call holds only a
chunk or two, however large its files are. The sizes recorded at enqueue are checked again, and the last bytes are sent
only after all others: an incomplete request never reaches its stated length, so the API cannot have accepted it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol
from uuid import UUID

from sendq.bindings import File
from sendq.errors import Altered, Unreadable
from sendq.messages.content import StoredPiece, chunk_count
from sendq.messages.forms import JSON, content_length

INCOMPLETE = "incomplete"
UNREADABLE = "unreadable"
ALTERED = "altered"


class Source(Protocol):
    """Where the parts of a request are kept."""

    def pieces(self, job_id: UUID) -> Awaitable[Sequence[StoredPiece]]:
        """The pieces of a job's request, in order. Raises `Unreadable` and the errors of the ledger."""

    def chunk(self, piece: StoredPiece, position: int) -> Awaitable[bytes | None]:
        """One chunk of a piece's content, None if there is none. Raises `Unreadable` and the errors of the ledger."""


class NotWhole(Exception):
    """The ledger does not have the whole request that was accepted."""


class Upload:
    """One body, for one call: ``opening`` are its first bytes, ``length`` is its size in bytes.

    ``files``: those that a sealed job is bound to; None: the job is not sealed.
    """

    def __init__(
        self,
        job_id: UUID,
        form: str,
        opening: bytes,
        length: int,
        source: Source,
        files: Sequence[File] | None = None,
    ) -> None:
        self._job_id, self._form, self._opening, self._source = job_id, form, opening, source
        self._files = files
        self.length = length
        self.complete = False
        """Whether its last bytes were passed on: only then can the API have the whole request."""
        self.trouble = INCOMPLETE
        """Why it broke off, as a fault: it could not be read, or the connection or the ledger failed."""

    async def body(self) -> AsyncIterator[bytes]:
        """The whole body, in order. Raises `NotWhole` and the errors of its source; it is then incomplete."""
        try:
            pieces = await self._source.pieces(self._job_id)
            if self._files is not None and [File(piece.digest, piece.size) for piece in pieces] != [*self._files]:
                raise Altered("")  # since the claim
            sizes = (content_length(self._form, piece.size) + len(piece.after) for piece in pieces)
            if not pieces or len(self._opening) + sum(sizes) != self.length:
                raise NotWhole
            yield self._opening
            for number, piece in enumerate(pieces, start=1):
                async for chunk in self._content(piece):
                    yield chunk
                self.complete = number == len(pieces)
                yield piece.after
        except (Unreadable, NotWhole) as error:
            self.trouble = ALTERED if isinstance(error, Altered) else UNREADABLE
            raise

    async def _content(self, piece: StoredPiece) -> AsyncIterator[bytes]:
        left = piece.size
        for position in range(chunk_count(piece.size)):
            chunk = await self._source.chunk(piece, position)
            left -= len(chunk or b"")
            if not chunk or left < 0:
                raise NotWhole
            yield b64encode(chunk) if self._form == JSON else chunk
        if left:
            raise NotWhole
