"""The addresses that a grant may send as, checked at enqueue, where the caller can still correct them.

A sender that is neither the grant's address nor an alias of it is refused by the provider, later and as a failure of
the message (Nylas, "Errors", 422 "Sending error": "Message delivery submission failed"). The application says which
addresses its accounts have; no request is made to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sendq.errors import Problem
from sendq.messages.addresses import trimmed, wire_form

Senders = Mapping[str, Iterable[str]] | Callable[[str], Iterable[str] | None]
"""The addresses that a grant may send as, by the grant's id. For a grant without an entry (None) nothing is checked."""


def sender_problems(field: str, addresses: Iterable[str], grant_id: str, senders: Senders | None) -> list[Problem]:
    """What is wrong with sending as ``addresses`` through this grant. Upper and lower case count as equal."""
    wanted = list(addresses)
    if senders is None or not wanted:
        return []
    known = senders(grant_id) if callable(senders) else senders.get(grant_id)
    if known is None:
        return []
    if isinstance(known, str):
        raise TypeError("senders: use a list of addresses for each grant, even for a single one")
    allowed = {_compared(address) for address in known}
    if all(_compared(address) in allowed for address in wanted):
        return []
    return [
        Problem(
            field,
            "is not an address that this grant may send as",
            "use the grant's own address or an alias, or leave it out",
        )
    ]


def _compared(address: str) -> str:
    address = trimmed(address)
    return (wire_form(address) or address).lower()
