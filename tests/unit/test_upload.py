"""Bodies that are read while they are sent: whole, or not completed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.bindings import File
from sendq.errors import Altered, LedgerUnavailable, Unreadable
from sendq.ids import new_id
from sendq.messages.content import CHUNK, StoredPiece
from tasks.calling.upload import NotWhole, Upload

JOB = new_id()
OPENING = b"opening "


class Kept:
    """Contents in memory; ``fails`` is raised for the chunk of that number (counted over all)."""

    def __init__(self, *contents: bytes, fails: tuple[int, Exception] | None = None) -> None:
        self.ids = {new_id(): content for content in contents}
        self.stored = [
            StoredPiece(content_id, sha256(content).digest(), len(content), b" after %d" % number)
            for number, (content_id, content) in enumerate(self.ids.items())
        ]
        self._fails, self.asked = fails, 0

    async def pieces(self, job_id: UUID) -> Sequence[StoredPiece]:
        assert job_id == JOB
        return self.stored

    async def chunk(self, piece: StoredPiece, position: int) -> bytes | None:
        if self._fails is not None and self.asked == self._fails[0]:
            raise self._fails[1]
        self.asked += 1
        return self.ids[piece.content_id][position * CHUNK : (position + 1) * CHUNK] or None

    def whole(self, form: str) -> bytes:
        """What should go over the wire."""
        body = OPENING
        for number, content in enumerate(self.ids.values()):
            body += (base64.b64encode(content) if form == "json" else content) + b" after %d" % number
        return body


def read(upload: Upload) -> bytes:
    """All that it gives, and that it is complete then and not before."""

    async def story() -> bytes:
        body = b""
        async for piece in upload.body():
            assert upload.complete == (len(body) + len(piece) == upload.length)
            body += piece
        return body

    return asyncio.run(story())


class TestABody:
    @given(
        sizes=st.lists(st.integers(0, 2 * CHUNK + 1), min_size=1, max_size=3),
        form=st.sampled_from(["json", "json_text", "multipart"]),
    )
    def test_is_the_opening_and_each_content_with_what_follows(self, sizes: list[int], form: str) -> None:
        kept = Kept(*(b"\xfe" * size for size in sizes))
        upload = Upload(JOB, form, OPENING, len(kept.whole(form)), kept)
        assert read(upload) == kept.whole(form)
        assert upload.complete

    def test_asks_for_a_chunk_only_when_the_one_before_was_taken(self) -> None:
        kept = Kept(b"x" * 3 * CHUNK)
        upload = Upload(JOB, "mime", OPENING, len(kept.whole("mime")), kept)

        async def story() -> list[int]:
            return [kept.asked async for _ in upload.body()]

        assert asyncio.run(story()) == [0, 1, 2, 3, 3]


class TestABodyThatBreaksOff:
    def trouble(self, kept: Kept, error: type[Exception], *, length: int | None = None) -> str:
        """What it raises is this; then it is not complete, and this is why."""
        upload = Upload(JOB, "multipart", OPENING, length or len(kept.whole("multipart")), kept)
        with pytest.raises(error):
            read(upload)
        assert not upload.complete
        return upload.trouble

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_because_the_ledger_is_away_was_incomplete(self, number: int) -> None:
        kept = Kept(b"x" * 2 * CHUNK, b"y", fails=(number, LedgerUnavailable("away")))
        assert self.trouble(kept, LedgerUnavailable) == "incomplete"

    @pytest.mark.parametrize("other", [lambda files: files[::-1], lambda files: files[:1], lambda files: []])
    def test_because_its_files_are_not_those_that_it_is_bound_to_was_altered(
        self, other: Callable[[list[File]], list[File]]
    ) -> None:
        kept = Kept(b"x", b"y")
        files = [File(piece.digest, piece.size) for piece in kept.stored]
        upload = Upload(JOB, "multipart", OPENING, len(kept.whole("multipart")), kept, other(files))
        with pytest.raises(Altered):
            read(upload)
        assert (upload.complete, upload.trouble, kept.asked) == (False, "altered", 0)
        assert read(Upload(JOB, "multipart", OPENING, upload.length, kept, files)) == kept.whole("multipart")

    def test_because_its_key_is_missing_could_not_be_read(self) -> None:
        kept = Kept(b"x", fails=(0, Unreadable("2026-11", missing=True)))
        assert self.trouble(kept, Unreadable) == "unreadable"

    @pytest.mark.parametrize("by", [-1, 1])
    def test_because_it_is_not_as_long_as_it_was_could_not_be_read(self, by: int) -> None:
        kept = Kept(b"x" * 100)
        assert self.trouble(kept, NotWhole, length=len(kept.whole("multipart")) + by) == "unreadable"

    def test_because_it_has_no_pieces_could_not_be_read(self) -> None:
        assert self.trouble(Kept(), NotWhole, length=len(OPENING)) == "unreadable"

    @pytest.mark.parametrize(("was", "size"), [(CHUNK, 0), (CHUNK, CHUNK - 1), (CHUNK - 1, CHUNK)])
    def test_because_a_chunk_is_not_what_it_was_could_not_be_read(self, was: int, size: int) -> None:
        kept = Kept(b"x" * was)
        kept.ids = dict.fromkeys(kept.ids, b"x" * size)
        assert self.trouble(kept, NotWhole, length=len(OPENING) + was + len(b" after 0")) == "unreadable"
