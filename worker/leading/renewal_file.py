"""The renewal file: remembers beside a SQLite ledger how often the leader's lease was renewed.

A backup of the ledger alone does not bring it back, and in a copy of the whole directory the ledger is another file
than the one that it names: then it knows nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID


class RenewalFile:
    """``ledger.db-renewals`` beside ``ledger.db``; replaced as a whole, and synchronised to the disk, each time."""

    def __init__(self, ledger: str) -> None:
        """``ledger``: the path of the SQLite file."""
        self._ledger, self._path = Path(ledger), Path(f"{ledger}-renewals")

    def renewals_of(self, line: UUID) -> int:
        """The highest known count of a lineage; 0 if the file does not know it, or cannot be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self._path.read_bytes())
            if known["line"] == line.hex and known["file"] == self._ledger.stat().st_ino:
                return int(known["renewals"])
        return 0

    def remember(self, line: UUID, renewals: int) -> None:
        """Remember a committed count; on a disk without room, only the next renewal is remembered."""
        with suppress(OSError):
            known = {"line": line.hex, "renewals": renewals, "file": self._ledger.stat().st_ino}
            new = self._path.with_name(f"{self._path.name}.new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(known, file)
                file.flush()
                os.fsync(descriptor)
            new.replace(self._path)
