"""Directories for what a test starts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import eventually


@contextmanager
def short_directory(prefix: str) -> Iterator[Path]:
    """A directory with a short name: a socket's path has room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    yield path

    def gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    eventually(gone, "its removal: a server that is still ending removes files too")
