"""Rules that sendq itself writes down where no answer of the API decided, beside those of the error policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sendq.rules.states import Event

# A job during which worker processes died again and again; also the policy's row for such a death.
POISON: Final = "poison"

# Jobs and lanes that wait for an encryption key that no worker has.
NO_KEY: Final = "encryption_key_missing"

# Went back before its call.
RETURNED: Final = "not_begun"

# Begun when its worker died, or stopped on purpose, and so without a known outcome.
DIED: Final = "worker_died"
STOPPED: Final = "worker_stopped"

# A later change of the same message is made already.
OVERTAKEN: Final = "overtaken"

# Holds that an operator made; the reason is in the event of the same time.
BY_HAND: Final = "by_hand"

# What is written down for a job that ends, or falls into doubt, without a call.
RULE_OF: Final[Mapping[Event, str]] = {
    Event.EXPIRE: "expired",
    Event.DOUBT: "key_too_old",
    Event.CANCEL: "cancelled",
    Event.GIVE_UP: POISON,
}
