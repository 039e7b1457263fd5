"""The token file: one token in each line, with its scope and the digest of its secret.

    {"name": "shop", "id": "5f0c…", "digest": "sha256:…", "application": "default", "grants": ["*"], …}

A token is ``sendq_ID_SECRET``. The secret is 256 random bits, so one round of SHA-256 protects it as well as a slow
hash would. Tokens are in a file and not in the ledger, because a web application may write to the ledger, and could
give itself a token of another application; and because no request then needs another query.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sendq.errors import InvalidArgument, Problem
from sendq.messages.characters import header_fault
from sendq.scope import DEFAULT_APPLICATION, matches_grant
from sendq.web.text_file import TextFile, why_unreadable

PREFIX = "sendq_"
SECRET_BYTES = 32
MAX_APPLICATION = 255  # characters
MAX_PATTERN = 255

_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_token = re.compile(r"sendq_([0-9a-f]{16})_([A-Za-z0-9_-]{43})").fullmatch
_digest = re.compile(r"sha256:[0-9a-f]{64}").fullmatch
_pattern = re.compile(r"[!-~]+").fullmatch

# Compared with for ids that do not exist, so that they take as long.
_NO_DIGEST = "sha256:" + "0" * 64


class Access(StrEnum):
    """What a token may do."""

    READ = "read"
    WRITE = "write"  # enqueue, change and cancel; and read


class TokenFileError(Exception):
    """The token file cannot be used; the message names the line, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret.

    Attributes:
        name: shown in logs, and recorded as the author of changes (``api:NAME``).
        application: the only application that it may use.
        grants: patterns of the grants that it may use: an id, or a part of one with ``*`` for the rest.
    """

    name: str
    id: str
    digest: str = field(repr=False)
    application: str
    grants: tuple[str, ...]
    access: Access
    created_at: datetime
    expires_at: datetime | None = None

    def covers(self, grant_id: str) -> bool:
        """Whether it may use a grant."""
        return any(matches_grant(pattern, grant_id) for pattern in self.grants)

    @property
    def covers_all(self) -> bool:
        """Whether it may use every grant of its application."""
        return "*" in self.grants

    def has_expired(self, now: datetime) -> bool:
        """Whether it is no longer valid."""
        return self.expires_at is not None and self.expires_at <= now

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the digest."""
        return {name: value for name, value in _values(self).items() if name != "digest"}


def new_token(
    name: str,
    *,
    application: str = DEFAULT_APPLICATION,
    grants: Sequence[str] = ("*",),
    access: Access = Access.READ,
    expires_at: datetime | None = None,
    now: datetime,
) -> tuple[Token, str]:
    """A new token, and its text, which is stored nowhere. Raises `InvalidArgument` with every problem."""
    problems = []
    if not _name(name):
        problems.append(Problem("name", "is not a name", "use 1 to 64 of letters, digits, . _ and -"))
    if not 0 < len(application) <= MAX_APPLICATION or header_fault(application) is not None:
        problems.append(Problem("application", "is not a name", "give the name of a configured application"))
    if not grants or not all(_pattern(one) and len(one) <= MAX_PATTERN for one in grants):
        remedy = "give ids of grants; * stands for any characters, and alone for every grant"
        problems.append(Problem("grants", "is not a pattern of grants", remedy))
    if expires_at is not None and expires_at <= now:
        problems.append(Problem("expires_at", "is in the past", "give a later time"))
    if problems:
        raise InvalidArgument(problems)
    token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(SECRET_BYTES)
    created_at = now.replace(microsecond=0)
    token = Token(name, token_id, _digest_of(secret), application, tuple(grants), access, created_at, expires_at)
    return token, f"{PREFIX}{token_id}_{secret}"


class TokenFile:
    """The tokens that are accepted. The file is read again when it changes: a revoked token is refused at once."""

    def __init__(self, path: str | Path) -> None:
        """Raises `TokenFileError`."""
        self._file = TextFile(path, _parsed, _unreadable)
        self.tokens()

    def tokens(self) -> Mapping[str, Token]:
        """All tokens by id, expired ones too. Raises `TokenFileError`."""
        return self._file.content()

    def find(self, text: str) -> Token | None:
        """The token with this text, expired or not; None: there is none. Takes as long for one that does not exist."""
        parts = _token(text)
        token = self.tokens().get(parts[1]) if parts else None
        secret = parts[2] if parts else ""
        right = hmac.compare_digest(_digest_of(secret), token.digest if token is not None else _NO_DIGEST)
        return token if right else None


def add_token(path: str | Path, token: Token) -> None:
    """Append a token to the file, which is made if need be. Raises `TokenFileError`, and `InvalidArgument` for a name
    that is in use.
    """
    with _changing(Path(path)) as lines:
        if any(one.name == token.name for one in _parsed("".join(lines)).values()):
            remedy = "choose another (both are valid until one is revoked), or revoke that token first"
            raise InvalidArgument([Problem("name", "is already in use by another token", remedy)])
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(json.dumps(_values(token)) + "\n")


def remove_token(path: str | Path, name: str) -> bool:
    """Remove a token from the file; False: there is none of this name. Raises `TokenFileError`, also without a file."""
    with _changing(Path(path), must_exist=True) as lines:
        kept = [line for line in lines if not _is_token(line) or _of_line(line).name != name]
        removed = len(kept) < len(lines)
        lines[:] = kept
    return removed


@contextmanager
def _changing(path: Path, *, must_exist: bool = False) -> Iterator[list[str]]:
    """The lines of the file, which replace it atomically at the end: a reader sees either the old or the new file."""
    path = Path(os.path.realpath(path))  # behind a link, the file itself is replaced
    beside = path.with_name(path.name + ".new")
    try:
        if must_exist and not path.exists():
            raise TokenFileError("there is no token file here; name the one that the servers use")
        # The new file is the lock as well: of two commands at once, the second waits, and then finds it gone.
        while True:
            with open(beside, "a+", encoding="utf-8", opener=_private) as new:
                fcntl.flock(new, fcntl.LOCK_EX)
                if not beside.exists() or os.fstat(new.fileno()).st_ino != beside.stat().st_ino:
                    continue
                try:
                    text = path.read_text(encoding="utf-8") if path.exists() else ""
                    _parsed(text)
                    lines = text.splitlines(keepends=True)
                    yield lines
                    new.truncate(0)
                    new.write("".join(lines))
                    new.flush()
                    os.fsync(new.fileno())
                    if path.exists():
                        _match_owner(new.fileno(), path.stat())
                    os.replace(beside, path)
                except BaseException:
                    beside.unlink(missing_ok=True)
                    raise
                return
    except FileNotFoundError as error:  # the file itself may be missing
        message = f"the token file cannot be used ({why_unreadable(error)}); make its directory first"
        raise TokenFileError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error) from None


def _match_owner(file: int, old: os.stat_result) -> None:
    """Give the new file the owner and mode of the old one: a server that may read the one has to read the other."""
    os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, old.st_mode & 0o777)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unreadable(error: Exception) -> TokenFileError:
    if isinstance(error, OSError):
        remedy = _REMEDIES.get(error.errno or 0, "correct that, and run it again")
    else:
        remedy = "restore it, or delete it and create the tokens again"
    return TokenFileError(f"the token file cannot be used ({why_unreadable(error)}); {remedy}")


_AS_ITS_OWNER = "run it as root, or as the file's owner"
_MAKE_ROOM = "make room for it"
_REMEDIES = {
    errno.ENOENT: "make it with `sendq token create`",
    errno.EACCES: _AS_ITS_OWNER,
    errno.EPERM: _AS_ITS_OWNER,
    errno.ENOTDIR: "name a file in a directory",
    errno.EISDIR: "name a file, not a directory",
    errno.ELOOP: "correct its path",
    errno.ENAMETOOLONG: "correct its path",
    errno.EROFS: "name a file that can be written",
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
}


def _parsed(text: str) -> dict[str, Token]:
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_token(line):
            continue
        reason = None
        try:
            token = _of_line(line)
            if token.id in tokens or any(one.name == token.name for one in tokens.values()):
                reason = "its name or id occurs twice"
        except (ValueError, KeyError, TypeError, AttributeError):
            reason = "it is not a token"
        if reason is not None:
            raise TokenFileError(f"line {number} of the token file: {reason}; write it with `sendq token create`")
        tokens[token.id] = token
    return tokens


def _is_token(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _of_line(line: str) -> Token:
    """Raises ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` for what is not a token."""
    given = json.loads(line)
    expires_at = given["expires_at"]
    token = Token(
        name=given["name"],
        id=given["id"],
        digest=given["digest"],
        application=given["application"],
        grants=tuple(given["grants"]),
        access=Access(given["access"]),
        created_at=_time(given["created_at"]),
        expires_at=None if expires_at is None else _time(expires_at),
    )
    texts = (token.name, token.application, *token.grants)
    whole = token.grants and isinstance(given["grants"], list) and all(isinstance(one, str) for one in texts)
    if not whole or not _name(token.name) or not _digest(token.digest) or not re.fullmatch("[0-9a-f]{16}", token.id):
        raise ValueError
    return token


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError
    return found.astimezone(UTC)


def _values(token: Token) -> dict[str, Any]:
    expires_at = None if token.expires_at is None else token.expires_at.isoformat()
    return {
        "name": token.name,
        "id": token.id,
        "digest": token.digest,
        "application": token.application,
        "grants": list(token.grants),
        "access": token.access.value,
        "created_at": token.created_at.isoformat(),
        "expires_at": expires_at,
    }


def _digest_of(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()
