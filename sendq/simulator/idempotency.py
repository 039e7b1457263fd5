"""Idempotency keys, as https://developer.nylas.com/docs/v3/email/idempotent-send/ describes them.

A key belongs to a grant and is stored for one hour after its first request. A repeat gets the stored status and body,
errors included, with the header ``Idempotent-Response: true``; it is rejected (409) while the first request is running,
and if its payload differs. The page does not define when payloads differ; here a single byte is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from sendq.simulator.answers import Answer, Refusal

LIFETIME = 3600.0  # seconds, from the first request
LONGEST = 256  # characters


@dataclass(slots=True)
class Entry:
    """One key of one grant: what it was used for, and the answer once there is one."""

    payload: str
    expires: float
    answer: Answer | None = None


class Keys:
    """The keys of all grants. Used only in the server's event loop."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()

    def begin(self, grant: str, key: str, payload: str, now: float) -> Entry:
        """The entry of this key: replay its answer if it has one, otherwise handle the request and call `settle`.

        ``payload`` is the digest of the request's body.

        Raises `Refusal`: 400 for a key that is too long, 409 for a different payload, 409 while the first one runs.
        """
        if len(key) > LONGEST:
            raise Refusal(400, "api.invalid_idempotency_key", "Idempotency-Key must be 256 characters or fewer.")
        entry = self._entries.get((grant, key))
        if entry is None or entry.expires <= now:
            self._entries[grant, key] = entry = Entry(payload, now + LIFETIME)
        elif entry.payload != payload:
            raise Refusal(
                409,
                "api.invalid_idempotent_request",
                "The Idempotency-Key was reused with a different request payload. Use a different key, or match the "
                "original payload.",
            )
        elif entry.answer is None:
            raise Refusal(
                409,
                "api.concurrent_idempotent_request",
                "A request with the same Idempotency-Key is currently in progress. Wait a moment and retry with the "
                "same key.",
            )
        return entry

    def settle(self, grant: str, key: str, entry: Entry, answer: Answer | None) -> None:
        """Store the answer of the first request, or free the key (None)."""
        if answer is not None:
            entry.answer = answer
        elif self._entries.get((grant, key)) is entry:
            del self._entries[grant, key]
