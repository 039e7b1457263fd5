"""Faults: how a request fails, and when.

A `Fault` is one way for a request to fail. It is selected by, in this order:

1. a script: ``simulator.will(fault, grant=…, operation=…, times=…)``;
2. a magic recipient: the local part of an address in ``to`` names it (``throttle@example.com``; ``throttle+7@…`` too).
   Temporary ones (a throttle, a temporary failure) are counted per grant, address and job;
3. chance: ``simulator.sometimes(0.05, fault)``, drawn from the simulator's seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sendq.simulator.answers import JSON_TYPE, Answer, encode, error_body

Ending = Literal["answer", "drop", "hang", "pass"]
Kept = Literal["answer", "outcome", "nothing", "stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way for a request to fail. Create it with `status`, `body`, `drop`, `hang`, `slow` or `named`.

    ``accepted``: whether the request was carried out before the fault (the message is in the mailbox, the change made).
    ``delay``: seconds before it happens.
    ``kept``: what a repeat with the same idempotency key finds. ``answer``: this fault's answer, as documented for
    errors. ``outcome``: the truth (the real answer if accepted, else a free key). ``nothing``: a free key. ``stuck``: a
    409 "concurrent" for the rest of the hour (a bug the API had until September 2026).
    """

    name: str
    ending: Ending = "answer"
    http_status: int = 0
    error: Mapping[str, Any] | None = None
    raw: bytes | None = None
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: bool = False
    delay: float = 0.0
    kept: Kept = "answer"
    expires_grant: bool = False

    @classmethod
    def status(
        cls,
        status: int,
        *,
        type: str = "api.provider_error",
        message: str = "simulated failure",
        provider_error: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Fault:
        """An error in the envelope of v3; ``more`` are fields of this class (``accepted``, ``delay``, ``kept`` …)."""
        error: dict[str, Any] = {"type": type, "message": message}
        if provider_error is not None:
            error["provider_error"] = dict(provider_error)
        more.setdefault("name", f"status {status}")
        return cls(http_status=status, error=error, headers=dict(headers or {}), **more)

    @classmethod
    def body(cls, status: int, body: Any, *, headers: Mapping[str, str] | None = None, **more: Any) -> Fault:
        """An answer with exactly this body: bytes as they are, anything else as JSON."""
        more.setdefault("name", f"body {status}")
        raw = body if isinstance(body, bytes) else encode(body)
        return cls(http_status=status, raw=raw, headers=dict(headers or {}), **more)

    @classmethod
    def drop(cls, **more: Any) -> Fault:
        """The connection is closed without an answer."""
        return cls(**{"name": "drop", "ending": "drop", "kept": "outcome", **more})

    @classmethod
    def hang(cls, **more: Any) -> Fault:
        """No answer; the connection stays open until the client closes it. Until then the key counts as in progress."""
        return cls(**{"name": "hang", "ending": "hang", "kept": "outcome", **more})

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """No failure: the ordinary answer, ``seconds`` later."""
        return cls(name="slow", ending="pass", delay=seconds)

    @classmethod
    def named(cls, name: str) -> Fault:
        """The fault of the magic recipient ``name@…``. Raises ValueError for an unknown name."""
        try:
            return MAGIC[name][0]
        except KeyError:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(MAGIC)}") from None

    @classmethod
    def from_json(cls, value: Any) -> Fault:
        """A fault as the control endpoint takes it: a magic name, or an object.

        Members of the object: ``ending`` (``answer|drop|hang|pass``), ``status``, ``type``, ``message``,
        ``provider_error``, ``body`` (a string, or any JSON), ``content_type``, ``headers``, ``accepted``, ``delay``,
        ``kept``, ``expires_grant``, ``name``. Raises ValueError when it cannot be one.
        """
        if isinstance(value, str):
            return cls.named(value)
        if not isinstance(value, dict):
            raise ValueError("fault: must be a name or an object")
        given = dict(value)
        ending = given.pop("ending", "answer")
        try:
            if ending != "answer":
                make = {"drop": cls.drop, "hang": cls.hang}.get(ending)
                return make(**given) if make else cls(**{"name": ending, "ending": ending, **given})
            status = int(given.pop("status"))
            if "body" in given:
                body = given.pop("body")
                return cls.body(status, body.encode() if isinstance(body, str) else body, **given)
            return cls.status(status, **given)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"fault: {error}") from None

    def __post_init__(self) -> None:
        if self.ending == "answer" and not 200 <= self.http_status <= 599:
            raise ValueError(f"fault: status {self.http_status} is none that an API answers with")
        if self.ending not in get_args(Ending) or self.kept not in get_args(Kept):
            raise ValueError(f"fault: ending is one of {get_args(Ending)}, kept one of {get_args(Kept)}")
        if not isinstance(self.delay, int | float) or not all(isinstance(one, str) for one in self.headers.values()):
            raise ValueError("fault: delay is a number of seconds, headers map strings to strings")

    @property
    def loses_the_answer(self) -> bool:
        """Whether the API itself does not know how it ended: a timeout, or a connection that broke."""
        return self.ending in ("drop", "hang") or (self.ending == "answer" and self.http_status >= 500)

    def answer(self, request_id: str) -> Answer:
        if self.raw is not None:
            return Answer(self.http_status, self.raw, request_id, self.headers, self.content_type)
        error = dict(self.error or {})
        body = error_body(request_id, error["type"], error["message"], error.get("provider_error"))
        return Answer(self.http_status, body, request_id, self.headers, self.content_type)


def _smtp(code: int, text: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": text}}


_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"

# name → (fault, how often it happens; None = always)
MAGIC: dict[str, tuple[Fault, int | None]] = {
    "tempfail": (
        Fault.status(503, name="tempfail", message="There was an error connecting to the user's mail provider."),
        2,
    ),
    "throttle": (
        Fault.status(
            429,
            name="throttle",
            type="rate_limit_error",
            message=(
                "The account is in a throttled state, and the email server has asked Nylas to temporarily stop making "
                "requests."
            ),
            headers={"Retry-After": "1"},
        ),
        1,
    ),
    "exchange": (
        Fault.status(
            429,
            name="exchange",
            type="rate_limit_error",
            message="Exchange account throttled: sync has been temporarily paused",
            provider_error=_smtp(
                503, "The server encountered an unknown error, the device SHOULD retry later.<85> Error 503"
            ),
        ),
        1,
    ),
    "reject": (
        # Some recipients have it: it is in the mailbox, so that a resend shows as a second copy.
        Fault.status(
            402,
            name="reject",
            accepted=True,
            message="Sending to at least one recipient failed",
            provider_error=_smtp(550, "5.1.1 mailbox unavailable for some recipients"),
        ),
        None,
    ),
    "refused": (
        Fault.status(
            402,
            name="refused",
            message="Message rejected: all recipients were refused",
            provider_error=_smtp(554, "5.7.1 message refused"),
        ),
        None,
    ),
    # An outbound rule of the application: a fact about this message. The grant stays valid.
    "blocked-rule": (
        Fault.status(
            403, name="blocked-rule", type="api.forbidden", message="Message blocked by outbound rule 'blocked-rule'"
        ),
        None,
    ),
    "paused": (
        Fault.status(
            400,
            name="paused",
            type="api.invalid_request_error",
            message="Sending is paused for this account: its bounce rate is too high",
        ),
        1,
    ),
    "smtp-signin": (
        Fault.status(
            422,
            name="smtp-signin",
            message="An error occurred while sending the message",
            provider_error=_smtp(535, "535 5.7.8 Error: authentication failed: authentication failure"),
            expires_grant=True,
        ),
        None,
    ),
    "sender-quota": (
        Fault.status(
            422,
            name="sender-quota",
            message="An error occurred while sending the message",
            provider_error=_smtp(
                550, "550 Domain example.com has exceeded the max emails per hour (105/100 (105%)) allowed."
            ),
        ),
        1,
    ),
    "bad": (Fault.status(400, name="bad", type="invalid_request_error", message="error parsing request body"), None),
    "reauth": (
        # From here on the grant is invalid, and says so when asked, until it is set to valid again.
        Fault.status(
            401,
            name="reauth",
            type="unauthorized",
            message="Unauthorized",
            provider_error={"code": 401, "message": "Request had invalid authentication credentials."},
            expires_grant=True,
        ),
        None,
    ),
    "timeout": (
        Fault.status(504, name="timeout", type="provider_error", message="Provider request timed out.", accepted=True),
        None,
    ),
    "hang": (Fault.hang(name="hang", accepted=True), None),
    "drop": (Fault.drop(name="drop", accepted=True), None),
    "dropbefore": (Fault.drop(name="dropbefore"), None),
    # From the edge, before the layer that knows keys.
    "html": (Fault.body(502, _HTML, name="html", content_type="text/html", kept="nothing"), None),
    "garbage": (Fault.body(200, b'\x00\xff\xfe{"data": {"id"', name="garbage", accepted=True), None),
}


@dataclass(slots=True)
class Script:
    """When a fault happens: for which grant and operation (None = any), how often, how likely."""

    fault: Fault
    grant: str | None = None
    operation: str | None = None
    times: int | None = 1
    probability: float = 1.0

    def fits(self, grant: str | None, operation: str) -> bool:
        return (
            self.times != 0
            and (self.grant is None or self.grant == grant)
            and (self.operation is None or self.operation == operation)
        )


class FaultBook:
    """Every fault that may happen, and how often each already did. Not thread-safe: its owner holds a lock."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.clear()

    def clear(self) -> None:
        self._chance = random.Random(self._seed)
        self._scripts: list[Script] = []
        self._odds: list[Script] = []
        self._magic: Counter[tuple[str, str | None, str, str | None]] = Counter()

    def add(self, script: Script) -> None:
        (self._scripts if script.probability >= 1 else self._odds).append(script)

    @property
    def waiting(self) -> int:
        """Scripts that may still happen."""
        return sum(script.times != 0 for script in self._scripts) + len(self._odds)

    def choose(self, grant: str | None, operation: str, recipients: list[str], job: str | None) -> Fault | None:
        """The fault of this request, or None. Choosing counts as happening."""
        for script in self._scripts:
            if script.fits(grant, operation):
                if script.times is not None:
                    script.times -= 1
                return script.fault
        for address in recipients:
            fault = self._by_magic(grant, address, job)
            if fault:
                return fault
        for script in self._odds:
            if script.fits(grant, operation) and self._chance.random() < script.probability:
                return script.fault
        return None

    def _by_magic(self, grant: str | None, address: str, job: str | None) -> Fault | None:
        name = address.partition("@")[0].partition("+")[0].lower()
        if name not in MAGIC:
            return None
        fault, times = MAGIC[name]
        if times is None:
            return fault
        counted = (name, grant, address, job)
        self._magic[counted] += 1
        return fault if self._magic[counted] <= times else None


def with_changes(fault: Fault | str, **changes: Any) -> Fault:
    """A fault, or the magic one of that name, with some fields set differently."""
    known = Fault.named(fault) if isinstance(fault, str) else fault
    return replace(known, **changes) if changes else known
