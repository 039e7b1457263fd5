"""What a rule says to people: of the policy, and of the ledger where no answer of the API decided. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sendq.facts.outcomes import Sent
from tasks.policy.row import Policy

_DIED = "Its outcome is unknown: whoever made the call did not live to tell."
_KEPT = "It may have gone out; it is not sent again before that is settled."


@dataclass(frozen=True, slots=True)
class Said:
    """A rule in words: its title, why it does what it does, and what the person who can act should do.

    ``sent``: whether the message may have gone out (``no``, ``maybe``, ``partly``, ``yes``).
    """

    title: str
    why: str
    remedy: str
    sent: str = Sent.NO.value


# What decides without an answer of the API. Of the same form as the policy's rows.
LEDGER_RULES = {
    "accepted": Said("Accepted", "The API accepted it.", "Nothing to do.", Sent.YES.value),
    "queued": Said("Accepted", "The API took it in, to send it later.", "Nothing to do.", Sent.YES.value),
    "expired": Said(
        "Expired",
        "Its time was over before it went out.",
        "Its time was over before it went out: enqueue it anew if it is still wanted.",
    ),
    "cancelled": Said("Cancelled", "It was cancelled before it went out.", "Nothing to do."),
    "key_too_old": Said("Key too old to ask with", "Its idempotency key could tell no more.", _KEPT, Sent.MAYBE.value),
    "worker_died": Said("A worker died during the call", _DIED, _KEPT, Sent.MAYBE.value),
    "worker_stopped": Said("A worker stopped during the call", _DIED, _KEPT, Sent.MAYBE.value),
    "recovered": Said(
        "Unfinished when the ledger was restored", "The ledger has lost what became of it.", _KEPT, Sent.MAYBE.value
    ),
    "found": Said("Found in the mailbox", "The mailbox shows it.", "Nothing to do.", Sent.YES.value),
    "not_in_mailbox": Said(
        "Not in the mailbox", "The mailbox does not show it, and would: it did not go out.", "Send it round again."
    ),
    "in_doubt_resent": Said(
        "Looked for in vain", "Nobody could tell whether it went out, and it was to be sent again then.",
        "Nothing to do; it may have arrived twice.", Sent.MAYBE.value,
    ),
    "in_doubt_given_up": Said(
        "Looked for in vain", "Nobody could tell whether it went out, and it was to be given up then.",
        "Look into the account's sent mail; if it is not there, send it round again.", Sent.MAYBE.value,
    ),
    "resolved_sent": Said("Settled by hand", "A person said that it went out.", "Nothing to do.", Sent.YES.value),
    "resolved_resent": Said("Settled by hand", "A person sent it again.", "Nothing to do.", Sent.MAYBE.value),
    "resolved_dead": Said(
        "Settled by hand", "A person gave it up; the events say who and why.", "Nothing to do.", Sent.MAYBE.value
    ),
    "by_hand": Said("Held by hand", "A person left it alone; the events say why.", "Nothing to do, or release it."),
    "encryption_key_missing": Said(
        "Encryption key missing",
        "It is sealed with a key that no worker has.",
        "Add the key to SENDQ_ENCRYPTION_KEYS of every worker.",
    ),
    "grant_expired": Said(
        "Grant expired",
        "Nylas has notified that the grant is no longer valid.",
        "Ask the account's owner to sign in again; the parked jobs go on by themselves.",
    ),
    "grant_deleted": Said(
        "Grant deleted",
        "Nylas has notified that the grant exists no more.",
        "Connect the account anew, and enqueue for its new grant.",
    ),
}  # fmt: skip


def words_of(policy: Policy) -> dict[str, Said]:
    """Every rule that this version knows, by its id: those of ``policy``, then the ledger's own."""
    rows = {row.id: Said(row.title, row.why, row.remedy, row.sent.value) for row in policy.rows}
    return LEDGER_RULES | rows
