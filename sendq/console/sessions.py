"""Sessions and CSRF tokens: signed, not stored. Only what ended before its time is remembered."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from sendq.console.identity import Person, hostname_of, is_loopback
from sendq.console.passwords import Entry, PasswordFile, PasswordFileError

LASTS_S = 12 * 3600  # a working day
COOKIE = "sendq_session"
LOGIN_COOKIE = "sendq_login"

SECRET_LEAST = 32  # characters: 128 bits in hexadecimal


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in with a password. ``id`` is unguessable, ``until`` in seconds since 1970."""

    person: Person
    id: str
    until: float


class Signer:
    """Signs what browsers carry."""

    def __init__(self, secret: str | None) -> None:
        """``secret``: the same in every process of one console; None: a new one. Raises ``ValueError``: too short."""
        if secret is not None and len(secret) < SECRET_LEAST:
            raise ValueError(f"the secret has fewer than {SECRET_LEAST} characters")
        self._key = secrets.token_bytes(32) if secret is None else hashlib.sha256(secret.encode()).digest()

    def sign(self, purpose: str, *parts: str) -> str:
        """The signature of ``parts`` for a purpose."""
        said = json.dumps([purpose, *parts]).encode()
        return urlsafe_b64encode(hmac.digest(self._key, said, "sha256")).rstrip(b"=").decode()

    def verify(self, signature: str, purpose: str, *parts: str) -> bool:
        """Whether `sign` made it."""
        return hmac.compare_digest(signature.encode(), self.sign(purpose, *parts).encode())


class Sessions:
    """Who is signed in, for a console with a password file."""

    def __init__(self, people: PasswordFile, signer: Signer, *, now: Callable[[], float] = time.time) -> None:
        self.people = people
        self._signer, self._now = signer, now
        self._ended: dict[str, float] = {}  # ids of sessions that were ended, until they would have anyway

    def __call__(self, request: Request) -> Person | None:
        session = self.of(request)
        return None if session is None else session.person

    def of(self, request: Request) -> Session | None:
        """The session of a request, if it is valid: its person is still in the file, with the same password."""
        said, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        try:
            name, identity, until = json.loads(urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        except (ValueError, TypeError, RecursionError):  # the last for thousands of brackets
            return None
        if not isinstance(name, str) or not isinstance(identity, str) or not isinstance(until, int | float):
            return None
        entry = self._entry(name)
        if entry is None or not self._signer.verify(signature, "session", said, entry.hashed):
            return None
        if until < self._now() or identity in self._ended:
            return None
        return Session(entry.person, identity, until)

    def begin(self, entry: Entry, request: Request, response: Response) -> None:
        """Sign a person in."""
        said = [entry.person.name, secrets.token_urlsafe(16), round(self._now() + LASTS_S)]
        text = urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
        token = f"{text}.{self._signer.sign('session', text, entry.hashed)}"
        set_cookie(request, response, COOKIE, token, LASTS_S)

    def end(self, request: Request, response: Response) -> None:
        """Sign a person out: the cookie is worth nothing any more, wherever a copy of it is."""
        session = self.of(request)
        now = self._now()
        self._ended = {identity: until for identity, until in self._ended.items() if until > now}
        if session is not None:
            self._ended[session.id] = session.until
        set_cookie(request, response, COOKIE, "", 0)

    def _entry(self, name: str) -> Entry | None:
        try:
            return self.people.entries().get(name)
        except PasswordFileError:
            return None  # nobody is signed in until it can be read


def set_cookie(request: Request, response: Response, name: str, value: str, lasts_s: int) -> None:
    """A cookie for this console alone; over HTTPS alone, unless it is opened on its own machine."""
    response.set_cookie(
        name,
        value,
        max_age=lasts_s,
        path=request.scope.get("root_path", "") or "/",
        httponly=True,
        samesite="strict",
        secure=not is_loopback(hostname_of(request)),
    )
