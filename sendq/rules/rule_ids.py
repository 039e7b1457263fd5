"""Rule ids that sendq records where no answer of the API decided, in addition to the error policy's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sendq.rules.states import Event

# A job that repeatedly killed its worker process; also the policy's row for such a death.
POISON: Final = "poison"

# Jobs and lanes that wait for an encryption key that no worker has.
NO_KEY: Final = "encryption_key_missing"

# Jobs that are stored unencrypted though there are encryption keys.
NOT_ENCRYPTED: Final = "not_encrypted"

# Jobs whose encrypted content, or what it is bound to, is not what was stored; also the policy's row for such a file.
INTEGRITY: Final = "integrity_check_failed"

# A recipient was put on the suppression list after the job was enqueued; also the policy's row for that.
SUPPRESSED: Final = "suppressed"

# Returned to the queue before its call.
RETURNED: Final = "not_begun"

# Begun when its worker died or stopped on purpose, so that its outcome is unknown.
DIED: Final = "worker_died"
STOPPED: Final = "worker_stopped"

# A later change of the same message has already been made.
OVERTAKEN: Final = "overtaken"

# Returned to the queue with what its message was before; the change is made in its next turn.
READ_FIRST: Final = "read_first"

# Left alone by an undo: the message is not as the change left it, is gone, or what it was before is not kept.
CHANGED_SINCE: Final = "changed_since"
GONE_SINCE: Final = "gone_since"
NOT_KEPT: Final = "not_kept"
LEFT_ALONE: Final = (CHANGED_SINCE, GONE_SINCE, NOT_KEPT)

# Refused twice while the API called its grant valid: another job of the grant goes first, and if that one succeeds,
# this one is given up.
JOB_REFUSED: Final = "job_refused"

# Accepted with a 202: the API sends it later. Also the policy's row for that answer.
QUEUED: Final = "queued"

# Accepted, and reported later as never sent; accepted after all, as a report shows.
FAILED_LATER: Final = "failed_later"
REPORTED: Final = "delivery_report"

# A lane whose grant was deleted, as a notification says; once the API has confirmed it, its jobs end.
GRANT_DELETED: Final = "grant_deleted"

# The API does not know a grant: it was deleted, or the API key belongs to another application (or region).
GRANT_NOT_FOUND: Final = "grant_not_found"

# An application's pause while other grants of it are asked about, and its hold if the API knows none of them either.
KEY_CHECK: Final = "key_check"
WRONG_APPLICATION: Final = "wrong_application"

# A grant whose bounce rate within an hour is too high (`SENDQ_BOUNCE_HOLD_S`).
BOUNCE_RATE: Final = "bounce_rate"

# Holds that an operator made; the reason is in the event of the same time.
BY_HAND: Final = "by_hand"

# Jobs that wait because one of their tags is held.
TAG_HELD: Final = "tag_held"

# Jobs that wait for approval; those that were not approved in time; those that were rejected.
NEEDS_APPROVAL: Final = "needs_approval"
NOT_APPROVED: Final = "not_approved"
REJECTED: Final = "rejected"
# Jobs that wait for the next opening of their window, or of their grant's.
OUTSIDE_WINDOW: Final = "outside_window"

# Sends that wait because a budget of their application, or of one of their tags, is used up.
OVER_BUDGET: Final = "over_budget"

# Jobs that follow another: still waiting for it; ended because it was not sent; or because of what `unless` names.
AFTER: Final = "after"
AFTER_FAILED: Final = "after_failed"
UNLESS_REPLIED: Final = "unless_replied"
UNLESS_BOUNCED: Final = "unless_bounced"

# The rule that is recorded for a job that ends or goes in doubt without a call.
RULE_OF: Final[Mapping[Event, str]] = {
    Event.EXPIRE: "expired",
    Event.DOUBT: "key_too_old",
    Event.CANCEL: "cancelled",
    Event.GIVE_UP: POISON,
}
