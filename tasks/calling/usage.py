"""How much of the provider's limits a call used, as its answer states it. Pure.

Nylas makes several requests to the provider for one of ours. ``Nylas-Gmail-Quota-Usage`` is the sum of their Gmail
quota units, ``Nylas-Provider-Request-Count`` their number (Nylas, "Rate limits").
"""

from __future__ import annotations

from collections.abc import Mapping

# The header that counts in the units of the provider's limits (`sendq.rules.pace.PACES`).
_HEADERS = {
    "google": "nylas-gmail-quota-usage",
    "microsoft": "nylas-provider-request-count",
    "ews": "nylas-provider-request-count",
}

_DIGITS_MOST = 6


def units_used(headers: Mapping[str, str], provider: str) -> int | None:
    """The units that a call to this provider used; None: the answer does not say. ``headers``: lower-case names."""
    stated = headers.get(_HEADERS.get(provider, ""))
    if stated is None:
        return None
    stated = stated.strip()
    if not (stated.isascii() and stated.isdigit() and len(stated) <= _DIGITS_MOST):
        return None
    return int(stated)
