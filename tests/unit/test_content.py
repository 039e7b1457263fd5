"""Contents: bytes, paths and file objects, read in chunks, more than once, and noticed when they change."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.errors import InvalidJob
from sendq.messages.content import CHUNK, MOST_BYTES, Content, ContentFault

DATA = bytes(range(256)) * 3_000  # three whole chunks and a part of one


class Pipe(io.RawIOBase):
    """A file object that cannot go back, and gives less at a time than it is asked for."""

    def __init__(self, data: bytes, *, at_once: int = 1_000_003) -> None:
        self._data, self._at_once = io.BytesIO(data), at_once
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(min(size, self._at_once))
        self.read_bytes += len(piece)
        return piece

    def seekable(self) -> bool:
        return False


class Endless(Pipe):
    def read(self, size: int = -1) -> bytes:
        self.read_bytes += size
        return b"x" * size


def as_path(data: bytes, folder: Path) -> Path:
    path = folder / "file.bin"
    path.write_bytes(data)
    return path


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, folder: data,
    "bytearray": lambda data, folder: bytearray(data),
    "memoryview": lambda data, folder: memoryview(data),
    "a path": as_path,
    "a file": lambda data, folder: as_path(data, folder).open("rb"),
    "an unbuffered file": lambda data, folder: as_path(data, folder).open("rb", buffering=0),
    "a buffer": lambda data, folder: io.BytesIO(data),
    "a pipe": lambda data, folder: Pipe(data, at_once=70_001),
}


@pytest.fixture(params=SOURCES, ids=str)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[bytes], Any]]:
    with ExitStack() as opened:

        def make(data: bytes) -> Any:
            made = SOURCES[request.param](data, tmp_path)
            if hasattr(made, "close"):
                opened.callback(made.close)
            return made

        yield make


class TestAContent:
    def test_is_measured_and_read_whatever_it_is_given_as(self, source: Callable[[bytes], Any]) -> None:
        content = Content.of(source(DATA))
        assert content.measure() == (len(DATA), hashlib.sha256(DATA).digest())
        assert b"".join(content.chunks()) == DATA

    def test_comes_in_whole_chunks_but_for_the_last(self, source: Callable[[bytes], Any]) -> None:
        sizes = [len(chunk) for chunk in Content.of(source(DATA)).chunks()]
        assert sizes == [CHUNK, CHUNK, CHUNK, len(DATA) - 3 * CHUNK]
        assert CHUNK % 3 == 0  # or the base64 of chunks would not be that of the whole

    def test_can_be_read_again(self, source: Callable[[bytes], Any]) -> None:
        content = Content.of(source(DATA))
        assert b"".join(content.chunks()) == b"".join(content.chunks()) == DATA
        assert content.head() == DATA[:CHUNK]

    def test_can_be_read_by_two_at_once(self, source: Callable[[bytes], Any]) -> None:
        content = Content.of(source(DATA))
        pairs = list(zip(content.chunks(), content.chunks(), strict=True))
        assert b"".join(one for one, _ in pairs) == b"".join(other for _, other in pairs) == DATA

    def test_may_be_empty(self, source: Callable[[bytes], Any]) -> None:
        content = Content.of(source(b""))
        assert content.measure().size == 0
        assert list(content.chunks()) == []

    @given(size=st.integers(0, 3 * CHUNK), at_once=st.integers(1, 2 * CHUNK))
    def test_is_the_same_however_little_a_read_gives(self, size: int, at_once: int) -> None:
        data = DATA[:size]
        at_once = max(at_once, size // 50, 1)
        content = Content.of(Pipe(data, at_once=at_once))
        assert content.measure() == Content.of(data).measure()
        assert list(content.chunks()) == list(Content.of(data).chunks())

    def test_of_a_file_object_begins_where_it_stands(self) -> None:
        file = io.BytesIO(b"head" + DATA)
        file.seek(4)
        assert b"".join(Content.of(file).chunks()) == DATA

    def test_of_a_pipe_is_read_once(self) -> None:
        pipe = Pipe(DATA)
        content = Content.of(pipe)
        assert b"".join(content.chunks()) == b"".join(content.chunks()) == DATA
        assert pipe.read_bytes == len(DATA)

    def test_of_a_path_is_measured_anew_when_the_file_is_another(self, tmp_path: Path) -> None:
        path = as_path(b"one", tmp_path)
        content = Content.of(path)
        first = content.measure()
        path.write_bytes(b"three")
        assert content.measure() != first
        assert b"".join(content.chunks()) == b"three"

    def test_is_copied_from_what_can_change(self) -> None:
        given = bytearray(b"abc")
        content = Content.of(given)
        given[0] = 0
        assert b"".join(content.chunks()) == b"abc"

    def test_shows_nothing_and_survives_pickling(self, tmp_path: Path) -> None:
        for kept in (b"secret", as_path(b"secret", tmp_path)):
            content = Content.of(kept)
            assert repr(content) == "Content(…)"
            assert pickle.loads(pickle.dumps(content)).measure() == content.measure()


class TestAContentThatIsTooLarge:
    @pytest.mark.parametrize("make", [Endless, lambda data: data])
    def test_is_not_read_to_its_end(self, make: Callable[[bytes], Any], tmp_path: Path) -> None:
        if make is Endless:
            endless = Endless(b"")
            assert Content.of(endless).measure().size > MOST_BYTES
            assert endless.read_bytes <= MOST_BYTES + 2 * CHUNK
        else:
            path = tmp_path / "huge"
            with path.open("wb") as file:
                file.truncate(MOST_BYTES * 100)
            assert Content.of(path).measure() == (MOST_BYTES * 100, b"")


class TestAContentThatCannotBeRead:
    def fault(self, given: Any) -> ContentFault:
        with pytest.raises(ContentFault) as caught:
            Content.of(given).measure()
        return caught.value

    def test_says_what_the_system_said_and_not_the_path(self, tmp_path: Path) -> None:
        assert self.fault(tmp_path / "secret").reason == "cannot be read (FileNotFoundError)"
        assert self.fault(tmp_path).reason == "cannot be read (IsADirectoryError)"

    @pytest.mark.parametrize("linked", [False, True])
    def test_is_a_pipe_or_a_device_and_is_not_waited_for(self, tmp_path: Path, linked: bool) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/zero")):
            if linked:
                (tmp_path / f"{path.name}-link").symlink_to(path)
                path = tmp_path / f"{path.name}-link"
            assert self.fault(path).reason == "is not a file but a pipe, a socket or a device"

    def test_becomes_a_pipe_between_being_measured_and_read(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x")
        content = Content.of(path)
        content.measure()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ContentFault):
            list(content.chunks())
        assert content.head() == b""

    def test_is_closed(self) -> None:
        file = io.BytesIO(b"x")
        file.close()
        assert "closed" in self.fault(file).reason

    def test_is_text(self, tmp_path: Path) -> None:
        assert self.fault(io.StringIO("text")).reason == "does not return bytes"
        with as_path(b"\xff\xfe\xff", tmp_path).open(encoding="ascii") as file:
            assert self.fault(file).reason == "does not return bytes"

    def test_belongs_to_asyncio(self) -> None:
        class UploadFile:
            async def read(self, size: int = -1) -> bytes:
                return b""

        assert self.fault(UploadFile()).reason == "does not return bytes"

    def test_stands_at_its_end(self) -> None:
        file = io.BytesIO(b"read already")
        file.read()
        assert self.fault(file).reason == "is at its end"

    @pytest.mark.parametrize("after", [b"other", b"longer than before", b""])
    def test_changed_after_it_was_measured(self, after: bytes) -> None:
        file = io.BytesIO(b"first")
        content = Content.of(file)
        content.measure()
        file.seek(0)
        file.truncate()
        file.write(after)
        with pytest.raises(ContentFault, match="changed while it was being read"):
            list(content.chunks())


@pytest.mark.parametrize("given", ["a/path.pdf", None, 5, ["x"]])
def test_nothing_else_is_a_content(given: object) -> None:
    with pytest.raises(InvalidJob) as caught:
        Content.of(given)
    assert "pass bytes, a pathlib.Path, or a file opened with mode 'rb'" in str(caught.value)
    assert "path.pdf" not in str(caught.value)
