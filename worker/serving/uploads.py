"""Reads files from the ledger for uploads: short reads, in a few dedicated threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy import Engine as Ledger

from sendq.ledger import contents
from sendq.ledger.db.engine import reading
from sendq.messages.content import StoredPiece
from sendq.vault import Vault

# Simultaneous reads in one process, each with a connection. A read takes a millisecond or two, so four read faster than
# any uplink sends; and each holds one chunk, so their number limits the memory in use.
READERS = 4

T = TypeVar("T")


class Uploads:
    """Reads pieces and chunks for `tasks.calling.upload`, each in its own transaction that takes milliseconds."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger, self._vault = ledger, vault
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="sendq-upload")

    def pieces(self, job_id: UUID) -> Awaitable[Sequence[StoredPiece]]:
        """See `tasks.calling.upload.Source`."""
        return self._read(lambda connection: contents.pieces_of(connection, job_id, vault=self._vault))

    def chunk(self, piece: StoredPiece, position: int) -> Awaitable[bytes | None]:
        """See `tasks.calling.upload.Source`."""
        return self._read(lambda connection: contents.chunk_of(connection, piece, position, vault=self._vault))

    def close(self) -> None:
        """Start no more reads; those that are running may finish."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, question: Callable[[Connection], T]) -> Awaitable[T]:
        def ask() -> T:
            with reading(self._ledger) as connection:
                return question(connection)

        return asyncio.get_running_loop().run_in_executor(self._threads, ask)
