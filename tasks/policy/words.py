"""The texts of all rules for people: those of the policy, and those that decide without an answer of the API. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sendq.facts.outcomes import Sent
from sendq.rules.rule_ids import BOUNCE_RATE, CHANGED_SINCE, GONE_SINCE, KEY_CHECK, NOT_KEPT, READ_FIRST
from tasks.policy.row import Policy
from tasks.policy.table import OTHER_APPLICATION

_DIED = "Its outcome is unknown: the worker that made the call did not record it."
_KEPT = "It may have gone out; it is not sent again until that is resolved."


@dataclass(frozen=True, slots=True)
class Said:
    """A rule's texts: its title, the reason, and what a person can do.

    ``sent``: whether the message may have gone out (``no``, ``maybe``, ``partly``, ``yes``).
    """

    title: str
    why: str
    remedy: str
    sent: str = Sent.NO.value


# Rules that decide without an answer of the API.
LEDGER_RULES = {
    "accepted": Said("Accepted", "The API accepted it.", "Nothing to do.", Sent.YES.value),
    "queued": Said("Accepted", "The API accepted it, to send it later.", "Nothing to do.", Sent.YES.value),
    "expired": Said(
        "Expired",
        "It was not sent before its `expires_at`.",
        "Enqueue it again if it should still be sent.",
    ),
    "cancelled": Said("Cancelled", "It was cancelled before it went out.", "Nothing to do."),
    "key_too_old": Said("Idempotency key too old", "Nylas no longer recognises a repeat.", _KEPT, Sent.MAYBE.value),
    "worker_died": Said("A worker died during the call", _DIED, _KEPT, Sent.MAYBE.value),
    "worker_stopped": Said("A worker stopped during the call", _DIED, _KEPT, Sent.MAYBE.value),
    "recovered": Said(
        "Unfinished when the ledger was restored", "The restored ledger lacks its outcome.", _KEPT, Sent.MAYBE.value
    ),
    "found": Said("Found in the mailbox", "The mailbox shows it.", "Nothing to do.", Sent.YES.value),
    "not_in_mailbox": Said(
        "Not in the mailbox", "The mailbox does not have it, so it did not go out.", "Retry it."
    ),
    "in_doubt_resent": Said(
        "Not found", "It may have gone out; the setting for that case is to send it again.",
        "Nothing to do; it may have arrived twice.", Sent.MAYBE.value,
    ),
    "in_doubt_given_up": Said(
        "Not found", "It may have gone out; the setting for that case is to give it up.",
        "Check the account's sent mail; if it is not there, retry it.", Sent.MAYBE.value,
    ),
    "resolved_sent": Said("Resolved by hand", "An operator said that it went out.", "Nothing to do.", Sent.YES.value),
    "resolved_resent": Said("Resolved by hand", "An operator had it sent again.", "Nothing to do.", Sent.MAYBE.value),
    "resolved_dead": Said(
        "Resolved by hand", "An operator gave it up: see the events.", "Nothing to do.", Sent.MAYBE.value
    ),
    "job_refused": Said(
        "Refused though the grant is valid",
        "The provider refused it twice while the API called its grant valid, and another job of the grant succeeded: "
        "the fault is in this job.",
        "Read the provider's message in its attempts, correct the job, and enqueue it again.",
    ),
    KEY_CHECK: Said(
        "API key being checked",
        "A grant is not found, and no other call shows that the API key belongs to this application: the API is asked "
        "about other grants.",
        "Nothing to do: this takes seconds.",
    ),
    BOUNCE_RATE: Said(
        "Too much bounced",
        "Too much of the mail that this grant sent within an hour bounced, and providers punish that: they throttle or "
        "block the account.",
        "See what bounced (sendq jobs --delivery bounced), correct the list of recipients, then release the grant; or "
        "wait for the end of the hold.",
    ),
    "by_hand": Said("Held by hand", "An operator paused it; the events say why.", "Nothing to do, or release it."),
    "tag_held": Said(
        "Held by its tag", "An operator holds all jobs with one of its tags; the events say why.",
        "Nothing to do, or release the tag.",
    ),
    "over_budget": Said(
        "Over its budget", "As many sends of its application or tag as its budget allows have begun in this window.",
        "Nothing to do; cancel what was enqueued by mistake, or raise SENDQ_BUDGETS.",
    ),
    "needs_approval": Said(
        "Waits for approval", "It needs approval before it may begin.", "sendq approve, or sendq reject.",
    ),
    "not_approved": Said(
        "Not approved in time",
        "It needed approval, and nobody approved it in time.",
        "If it is still wanted, retry it: then it waits for approval again.",
    ),
    "rejected": Said(
        "Rejected", "It needed approval, and was rejected: see the events.", "Nothing to do.",
    ),
    "outside_window": Said(
        "Outside its window", "It may begin only in certain hours, and waits for the next of them.", "Nothing to do.",
    ),
    "after": Said(
        "Follows another job", "It waits for another job to be sent, and then for its delay.", "Nothing to do.",
    ),
    "after_failed": Said(
        "The job it follows was not sent",
        "It was to follow another job, which was given up, expired or was cancelled, or whose message has no known id.",
        "sendq why names the other job. Retry that one first, then this one: it waits for it again.",
    ),
    "unless_replied": Said(
        "Answered", "The mail that it was to follow was answered, so it was not sent.", "Nothing to do.",
    ),
    "unless_bounced": Said(
        "Bounced", "The mail that it was to follow bounced, was rejected or was marked as spam, so it was not sent.",
        "Nothing to do, or correct the address.",
    ),
    READ_FIRST: Said(
        "Read first",
        "The message was read and its state kept, so that the change can be undone; the change itself comes next.",
        "Nothing to do.",
    ),
    CHANGED_SINCE: Said(
        "Changed since", "The message was changed again after the change that was to be undone, so it was left alone.",
        "If it should be changed anyway, modify it.",
    ),
    GONE_SINCE: Said("Gone since", "The message whose change was to be undone no longer exists.", "Nothing to do."),
    NOT_KEPT: Said(
        "Earlier state not kept",
        "The ledger does not have the message's state from before the change, so it was left alone.",
        "If it should be changed, modify it.",
    ),
    "encryption_key_missing": Said(
        "Encryption key missing",
        "It is encrypted with a key that no worker has.",
        "Add the key to SENDQ_ENCRYPTION_KEYS of every worker.",
    ),
    "not_encrypted": Said(
        "Not encrypted",
        "It is stored unencrypted, though the workers have encryption keys: it is from before they had, or something "
        "other than sendq stored it.",
        "If it is from before, set SENDQ_ACCEPT_UNENCRYPTED=true and run sendq rekey. If not, find out who can write "
        "to the ledger, and cancel it.",
    ),
    "grant_expired": Said(
        "Grant expired",
        "Nylas reported that the grant is no longer valid.",
        "Ask the account's owner to sign in again; the waiting jobs are then sent automatically.",
    ),
    "failed_later": Said(
        "Accepted, then failed",
        "The API accepted the message, and reported later that it never went out.",
        "Read the reason in its attempts, and retry the job if the cause is gone.",
    ),
    "delivery_report": Said(
        "Shown by a delivery report",
        "A report of its delivery shows that the message went out.",
        "Nothing to do.",
        Sent.YES.value,
    ),
    "grant_deleted": Said(
        "Grant deleted",
        "Nylas reported that the grant was deleted; its waiting jobs end as soon as the API confirms it.",
        "Connect the account again, and enqueue for its new grant.",
    ),
}  # fmt: skip


def words_of(policy: Policy) -> dict[str, Said]:
    """The texts of every known rule by id: those of ``policy``, and those without an answer."""
    all_rows = (OTHER_APPLICATION, *policy.rows)
    rows = {row.id: Said(row.title, row.why, row.remedy, row.sent.value) for row in all_rows}
    return LEDGER_RULES | rows
