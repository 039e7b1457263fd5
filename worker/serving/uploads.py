"""Files on their way from the ledger to the wire: short reads, in a few threads of their own."""

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

# Reads at once in one process, with a connection each. A read takes a millisecond or two, so four bring more than any
# uplink takes; and a read holds a chunk, so their number bounds what is held.
READERS = 4

T = TypeVar("T")


class Uploads:
    """Reads pieces and chunks for `tasks.calling.upload`, each in a transaction of its own that takes milliseconds."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger, self._vault = ledger, vault
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="sendq-upload")

    def pieces(self, job_id: UUID) -> Awaitable[Sequence[StoredPiece]]:
        """See `tasks.calling.upload.Source`."""
        return self._read(lambda connection: contents.pieces_of(connection, job_id, vault=self._vault))

    def chunk(self, content_id: UUID, position: int) -> Awaitable[bytes | None]:
        """See `tasks.calling.upload.Source`."""
        return self._read(lambda connection: contents.chunk_of(connection, content_id, position, vault=self._vault))

    def close(self) -> None:
        """Let reads under way end; none begins any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, question: Callable[[Connection], T]) -> Awaitable[T]:
        def ask() -> T:
            with reading(self._ledger) as connection:
                return question(connection)

        return asyncio.get_running_loop().run_in_executor(self._threads, ask)
