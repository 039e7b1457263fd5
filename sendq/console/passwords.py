"""The password file: a name, a role and a hash in each line, like those of web servers. Hashes are scrypt's (RFC 7914).

# written by: sendq password anna --operator
anna:operator:scrypt$32768$8$1$<salt>$<hash>
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore

from sendq.console.identity import Person, Role
from sendq.web.text_file import TextFile, why_unreadable

# 32 MiB and a tenth of a second for each guess.
COST, BLOCK, PARALLEL = 2**15, 8, 1
MEMORY_MOST = 256 * 1024 * 1024  # a line that asks for more is refused

PASSWORD_LEAST = 8  # characters; NIST SP 800-63B, 5.1.1.2
PASSWORD_MOST = 1024  # characters that are hashed

# Hashes computed at once: more would be a way to use up memory.
AT_ONCE = 2


class PasswordFileError(Exception):
    """The password file cannot be used; the message names the line, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    person: Person
    hashed: str


def password_line(name: str, password: str, role: Role = Role.VIEWER) -> str:
    """The line of a person. Raises ``ValueError`` for a name or password that cannot be used."""
    if not name.strip() or ":" in name or not name.isprintable() or name != name.strip() or name.startswith("#"):
        raise ValueError("the name must be printable, without ':' and not start with '#'")
    if not PASSWORD_LEAST <= len(password) <= PASSWORD_MOST:
        raise ValueError(f"the password must have {PASSWORD_LEAST} to {PASSWORD_MOST} characters")
    salt = secrets.token_bytes(16)
    found = _scrypt(password, salt, COST, BLOCK, PARALLEL)
    return f"{name}:{role}:scrypt${COST}${BLOCK}${PARALLEL}${_text(salt)}${_text(found)}"


class PasswordFile:
    """The people who may sign in. The file is read again when it changes: who is removed is out at once."""

    def __init__(self, path: str | Path) -> None:
        """Raises `PasswordFileError`."""
        self._file, self._slots = TextFile(path, _parsed, _unreadable), BoundedSemaphore(AT_ONCE)
        self.entries()
        # Compared with for names that do not exist, so that they take as long.
        self._nobody = password_line("nobody", secrets.token_urlsafe()).rpartition(":")[2]

    def entries(self) -> dict[str, Entry]:
        """The lines by name. Raises `PasswordFileError`."""
        return self._file.content()

    def check(self, name: str, password: str) -> Entry | None:
        """The entry with this name and password; None: there is none. Takes a tenth of a second, always."""
        entry = self.entries().get(name)
        with self._slots:
            right = _matches(password[: PASSWORD_MOST + 1], entry.hashed if entry is not None else self._nobody)
        return entry if right else None


def _unreadable(error: Exception) -> PasswordFileError:
    why = why_unreadable(error)
    return PasswordFileError(f"the password file cannot be read ({why}); write it with `sendq password NAME`")


def _parsed(text: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        role, _, hashed = rest.partition(":")
        reason = None
        if role not in tuple(Role):
            reason = f"its role is not {' or '.join(Role)}"
        elif name in entries:
            reason = "its name occurs twice"
        elif not name.strip() or not _is_hash(hashed):
            reason = "it has no name, or no scrypt hash"
        if reason is not None:
            raise PasswordFileError(f"line {number} of the password file: {reason}; write it with `sendq password`")
        entries[name] = Entry(Person(name, Role(role)), hashed)
    return entries


def _is_hash(hashed: str) -> bool:
    try:
        kind, cost, block, parallel, salt, found = hashed.split("$")
        n, r, p = int(cost), int(block), int(parallel)
        fits = n > 1 and n & (n - 1) == 0 and r > 0 and 0 < p <= 16 and 128 * n * r * p <= MEMORY_MOST
        return kind == "scrypt" and fits and len(_bytes(salt)) >= 8 and len(_bytes(found)) >= 32
    except ValueError:
        return False


def _matches(password: str, hashed: str) -> bool:
    _, cost, block, parallel, salt, found = hashed.split("$")
    known = _bytes(found)
    tried = _scrypt(password, _bytes(salt), int(cost), int(block), int(parallel), length=len(known))
    return hmac.compare_digest(known, tried)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int, *, length: int = 32) -> bytes:
    secret = password.encode(errors="surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=MEMORY_MOST + 2**20, dklen=length)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)
