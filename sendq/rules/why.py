"""Why a job is in its state, and until when: the dispatcher's own reasons, in its own order. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sendq.clock import SECOND, Micros, moment
from sendq.facts.lanes import Lane
from sendq.rules.after import Unless
from sendq.rules.delivery import Delivery
from sendq.rules.eta import predicted
from sendq.rules.expiry import expiry_in
from sendq.rules.pace import call_of, pacer_of, read, stated_costs
from sendq.rules.preflight import must_be_repeated
from sendq.rules.reconcile import Seen
from sendq.rules.rule_ids import (
    AFTER,
    AFTER_FAILED,
    BY_HAND,
    FAILED_LATER,
    GRANT_NOT_FOUND,
    INTEGRITY,
    JOB_REFUSED,
    NEEDS_APPROVAL,
    NO_KEY,
    NOT_APPROVED,
    NOT_ENCRYPTED,
    OUTSIDE_WINDOW,
    OVER_BUDGET,
    POISON,
    QUEUED,
    REJECTED,
    SUPPRESSED,
    TAG_HELD,
    UNLESS_BOUNCED,
    UNLESS_REPLIED,
)
from sendq.rules.situation import EarlierChange, Follows, HoldFacts, JobFacts, Situation
from sendq.rules.states import MOVES, State
from sendq.rules.waiting_job import HELD, UNAPPROVED
from sendq.rules.windows import next_opening, readable_window
from sendq.views import Why

# By why the ledger is shut (`sendq.ledger.dispatching.lineage`); the remedy comes last: its options can be appended.
SHUT: Mapping[str, str] = {
    "lost": "the ledger has lost part of its history, and nothing is sent until an operator runs: sendq recover",
    "unproven": "the ledger may have been restored from a backup or taken over by a replica that lags, since nothing"
    " outside of it remembers its latest state; nothing is sent until an operator runs: sendq recover",
}

UNPUBLISHED = "turns cannot be published, because Redis cannot be reached or takes no messages,"
FAILING = "the dispatcher fails (the log of the worker that led says why, as `bug`)"
UNCLAIMED = "no worker claims turns: Redis loses their messages, or workers do not read their queue,"

# Reasons whose end is not known.
_OPEN_ENDED = frozenset(
    {"after", "held", "reauth", "shut", "no_worker", "no_dispatcher", "broker", "unclaimed", "failing"}
)

# After this a leader that died should have been replaced: the lease has 4.5 s by default.
LEADERLESS = 15 * SECOND

_ENDED = {
    State.SENT: "the API accepted it",
    State.DEAD: "it was given up; its attempts show why",
    State.CANCELLED: "it was cancelled before it was sent",
    State.EXPIRED: "it expired before it was sent",
}

# What became of a mail that the API accepted.
_DELIVERED: Mapping[Delivery, str] = {
    Delivery.CONFIRMED: "the API accepted it, and it went out",
    Delivery.DELIVERED: "the API accepted it, and the mail server of the recipient took it",
    Delivery.BOUNCED: "the API accepted it, but the mail server of a recipient refused it",
    Delivery.COMPLAINED: "the API accepted it, and a recipient marked it as spam",
    Delivery.REJECTED: "the API accepted it, but then refused to send it because of its content",
}

_QUEUED = "the API accepted it to send it later, and has not confirmed yet that it went out"

_FAILED_LATER = "the API accepted it, but reported later that it never went out; to try it again: sendq retry"

_DOUBT = "it may have been sent; until that is known it is not sent again"

# What the last search of the mailbox found, and what is missing.
_SEEN: Mapping[str | None, str] = {
    None: "the mailbox has not been searched yet",
    Seen.EARLY: "the mailbox did not show it, but it is too early for that to prove anything",
    Seen.SILENT: "the mailbox shows neither it nor a later message of ours, which would prove the listing up to date",
    Seen.CROWDED: "the mailbox has more messages from that time than a search reads",
    Seen.DRAFT: "the mailbox shows it among the drafts",
    Seen.REFUSED: "the search of the mailbox failed",
    Seen.ABSENT: "the mailbox does not show it; if the next search does not either, it counts as not sent",
}

_SET_ASIDE = (
    "the provider refused it twice, and the API says that the grant is valid: another job of the grant goes first, and "
    "if that one succeeds, this one is given up"
)

# What ends a job that follows another, as a part of a sentence about that one's mail.
_UNLESS: Mapping[Unless, str] = {Unless.REPLIED: "is answered", Unless.BOUNCED: "bounces"}

# Why jobs wait, or a lane is held, because of the encryption.
NOT_OPENED: Mapping[str | None, str] = {
    NO_KEY: "it is encrypted with a key that no worker has",
    NOT_ENCRYPTED: "it is stored unencrypted, and the workers have encryption keys; if it is from before they had, set "
    "SENDQ_ACCEPT_UNENCRYPTED=true and run: sendq rekey; otherwise find out who wrote it, and cancel it",
    INTEGRITY: "the ledger's row of the grant names another grant or application than when it was made; find out who "
    "changed it, and restore it",
}

_ALTERED = (
    "it was not sent, because it is not as it was stored: something other than sendq changed the ledger, or it is "
    "damaged; find out who did, and enqueue it again, or restore its rows and run: sendq retry"
)

_SUPPRESSED = (
    "it was not sent, because a recipient was put on the suppression list after it was enqueued: mail to it bounced, "
    "or the person complained or unsubscribed; if that is a mistake: sendq suppressions remove, then sendq retry"
)

_NOT_APPROVED = (
    "it needed approval and was not approved in time, so it was not sent; to have it wait for approval again: "
    "sendq retry"
)

_REJECTED = "it needed approval and was rejected, so it was not sent"

_POISON = "two workers died while sending it, then the process that ran it alone; to try it again: sendq retry"

# Ends that a rule explains better than the state does.
_ENDED_BY: Mapping[tuple[State, str | None], str] = {
    (State.DEAD, POISON): _POISON,
    (State.DEAD, INTEGRITY): _ALTERED,
    (State.DEAD, NOT_APPROVED): _NOT_APPROVED,
    (State.CANCELLED, REJECTED): _REJECTED,
    (State.DEAD, SUPPRESSED): _SUPPRESSED,
    (State.DEAD, FAILED_LATER): _FAILED_LATER,
}


def explain(around: Situation, *, now: Micros) -> Why:
    """The first reason that applies, in the order in which the dispatcher and the worker check.

    A time that a worker has seen is past, even if the caller's clock is behind. If the job expires before the time that
    the reason promises, the sentence says so.
    """
    now = max(now, around.highest_at)
    return _with_expiry(_explain(around, now=now), around)


def _with_expiry(why: Why, around: Situation) -> Why:
    lane = around.lane
    expires_at = expiry_in(None if lane is None else lane.time_window, around.job)
    if expires_at is None or why.state is not State.QUEUED:
        return why
    expires = moment(expires_at)
    promised = max((at for at in (why.until, why.eta) if at is not None), default=None)
    if promised is not None and promised < expires:
        return why
    if promised is None and why.reason not in _OPEN_ENDED:
        return why
    ends = f"it expires at {_clock(expires_at)}, before that" if promised else f"it expires at {_clock(expires_at)}"
    return replace(why, says=f"{why.says}; {ends}", expires_at=expires)


def _explain(around: Situation, *, now: Micros) -> Why:
    job = around.job
    state = State(job.state)
    if state in _ENDED:
        return _why(job, state.value, _ended(around, state), rule=job.rule)
    if state is State.IN_DOUBT:
        return _in_doubt(around, now=now)
    if state is State.SENDING:
        return _why(job, "on_the_wire", "a worker is making the call now")
    if state not in MOVES:
        return _why(job, "foreign", "it is being handled by a newer version of sendq; ask with that version")
    if around.shut_at is not None:
        return _why(job, "shut", SHUT[around.shut_because or "lost"])
    if around.lane is not None and around.lane.closed_at is not None:
        return _why(job, "reauth", _closed(around.lane), rule=around.lane.closed_rule, by="policy")
    if job.waits_for_approval:
        return _unapproved(around)
    if job.resume_at is not None:
        return _held_itself(around)
    if job.rule == AFTER and around.follows is not None:
        return _follows(around, around.follows, now=now)
    held = _held(around, now=now, of_tags=True)
    # Whichever ends later decides: a job that is due tomorrow does not start when a hold of twenty minutes is over.
    if held is not None and held.until >= job.not_before:
        if held.rule in NOT_OPENED:
            return _why(job, "held", _unopened(held.rule, around), until=held.until, rule=held.rule, by=held.by)
        says = f"the {held.scope} is held"
        return _why(
            job, "held", says, until=held.until, rule=held.rule, by=held.by, note=held.note, eta=_eta(around, now=now)
        )
    before = around.before
    if before is not None and (before.state == State.SENDING or before.next_at > now):
        return _behind(job, before)
    closed = _outside_window(around, now=now)
    if closed is not None:
        return closed
    return _put_off(around, now=now) if job.next_at > now else _unserved(around, now=now)


def _ended(around: Situation, state: State) -> str:
    if state is State.SENT:
        return _sent(around)
    because = _ENDED_BY.get((state, around.job.rule))
    if because is None and around.follows is not None:
        because = _not_followed(around.job, around.follows)
    return because or _ENDED[state]


def _behind(job: JobFacts, before: EarlierChange) -> Why:
    """An earlier job about the same message goes first."""
    says = f"an earlier change of the same message goes first: job {before.id}"
    if before.next_at >= HELD:
        waits = "which waits for approval" if before.next_at == UNAPPROVED else "which a person holds"
        return _why(job, "behind", f"{says}, {waits}")
    return _why(job, "behind", says, until=before.next_at if before.state == State.QUEUED else None)


def _put_off(around: Situation, *, now: Micros) -> Why:
    """Its time has not come."""
    job = around.job
    if job.rule == TAG_HELD and around.tag_holds and job.due_at <= now:
        return _why(job, "held", "the hold of its tag is over, and the leader brings its jobs back", rule=TAG_HELD)
    if job.rule == OVER_BUDGET and job.next_at > job.due_at + SECOND:  # not one that was rescheduled since
        return _over_budget(around)
    if job.rule in NOT_OPENED:
        return _why(job, "held", _unopened(job.rule, around), until=job.next_at, rule=job.rule, by="policy")
    if job.rule == JOB_REFUSED:
        return _why(job, "set_aside", _SET_ASIDE, until=job.next_at, rule=job.rule)
    if job.attempts or job.doubt_at is not None:
        return _why(job, "retry", "its last attempt failed, and it will be retried", until=job.next_at, rule=job.rule)
    return _why(job, "not_due", "it is not due yet", until=job.next_at)


def _over_budget(around: Situation) -> Why:
    """It was put off to a later window of a budget that was used up, which others may use up again before its turn."""
    job = around.job
    # The one whose window ends last has decided; its next window may have begun, with the lane a few seconds later.
    used_up = max((one for one in around.used_up if one.until <= job.next_at), key=lambda one: one.until, default=None)
    which = "a budget of its application or tags" if used_up is None else f"the budget of {used_up.says}"
    says = f"it is over {which}; it goes on at {_clock(job.next_at)} at the earliest"
    return _why(job, "over_budget", says, until=job.next_at, rule=OVER_BUDGET)


def _unapproved(around: Situation) -> Why:
    """A person has to approve it."""
    job = around.job
    assert job.approve_by is not None
    what = f"approval of content version {job.content_version}" if job.content_version else "approval"
    limit = "" if job.approve_by >= HELD else f", and is given up unless it is approved by {_clock(job.approve_by)}"
    says = f"it waits for {what}{limit}: sendq approve"
    if job.is_held:
        says += "; it is held, too, until it is released"
    return _why(job, "unapproved", says, rule=NEEDS_APPROVAL)


def _held_itself(around: Situation) -> Why:
    """A person holds the job, or its batch."""
    job, held = around.job, around.held
    if held is None:
        return _why(job, "held", "the job is held until it is released: sendq release --job", rule=BY_HAND)
    what = "the job is" if held.batch_id is None else f"its batch {held.batch_id} is"
    return _why(job, "held", f"{what} held until it is released", rule=BY_HAND, by=held.by, note=held.reason)


def _outside_window(around: Situation, *, now: Micros) -> Why | None:
    """It waits for its window to open: it has been put off until then, or will be at its next turn."""
    job = around.job
    begins_at = max(job.not_before, now)
    opens_at = _opening(around, begins_at)
    # One that was rescheduled to an opening just is not due yet. (The others are in their order, microseconds apart.)
    is_put_off = job.rule == OUTSIDE_WINDOW and job.next_at > now and job.next_at - job.due_at > SECOND
    if opens_at == begins_at and not is_put_off:
        return None
    stored = _window(around)
    says = "it may begin only in certain hours, and waits for the next of them"
    if stored is not None:
        window = readable_window(stored)
        whose = "its" if job.time_window is not None else "its grant's"
        says = f"{whose} window cannot be read here: a newer version wrote it, or this machine has no time zone data"
        if window is not None:
            says = f"it is outside {whose} window ({window.says}), and waits for {window.clock(opens_at)}"
    return _why(job, "window", says, until=opens_at, rule=OUTSIDE_WINDOW, eta=_eta(around, now=now))


def _window(around: Situation) -> str | None:
    """Its own window, or that of its grant; one that must be repeated has none."""
    if must_be_repeated(around.job.operation, around.job.doubt_at):
        return None
    return around.job.time_window or (None if around.lane is None else around.lane.time_window)


def _opening(around: Situation, at: Micros) -> Micros:
    """When it may begin, from a time on."""
    return next_opening(_window(around), at)


def _follows(around: Situation, follows: Follows, *, now: Micros) -> Why:
    """It waits for another job, or for what is to be known of that one's mail."""
    job, name = around.job, f"job {follows.after_id}"
    unless = [_UNLESS[Unless(one)] for one in (follows.unless or "").split()]
    condition = f", unless its mail {' or '.join(unless)}" if unless else ""
    delay = f", and then for {_duration(follows.delay)}" if follows.delay else ""
    if follows.check_at is None:
        return _why(job, "after", f"it waits for {name} to be sent{delay}{condition}", rule=AFTER)
    if follows.trouble is not None:
        reason = NOT_OPENED.get(follows.trouble, f"the thread of its mail could not be read ({follows.trouble})")
        says = f"{name} was sent, but {reason}; that is tried again"
        return _why(job, "after", says, until=max(now, follows.check_at), rule=AFTER)
    if follows.check_at > now:
        says = f"{name} was sent; this job follows {_duration(follows.delay)} later{condition}"
        return _why(job, "after", says, until=follows.check_at, rule=AFTER)
    held = _held(around, now=now)
    if held is not None and unless:
        says = f"{name} was sent; the {held.scope} is held, and the thread is not read until the hold ends"
        return _why(job, "after", says, until=held.until, rule=AFTER)
    reading = ", and its thread is read for an answer" if Unless.REPLIED in (follows.unless or "") else ""
    return _why(job, "after", f"{name} was sent{reading}; the leader releases it within seconds", rule=AFTER)


def _not_followed(job: JobFacts, follows: Follows) -> str | None:
    """Why a job ended instead of following another; None: that was not the reason."""
    name = f"job {follows.after_id}, which it was to follow,"
    if job.rule == UNLESS_REPLIED:
        return f"it was not sent, because the mail of {name} was answered"
    if job.rule == UNLESS_BOUNCED:
        return f"it was not sent, because the mail of {name} bounced, was rejected or was marked as spam"
    if job.rule != AFTER_FAILED:
        return None
    if follows.state == State.SENT:
        return f"it was not sent, because the id of the message of {name} is not known"
    what = {State.CANCELLED: "was cancelled", State.EXPIRED: "expired", State.DEAD: "was given up"}
    because = f" ({follows.failed_by})" if follows.failed_by else ""
    says = f"it was not sent, because {name} {what.get(State(follows.state or ''), 'was not sent')}{because}"
    return f"{says}; to try it again, retry that one first: sendq retry" if job.state == State.DEAD else says


def _duration(micros: Micros) -> str:
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if micros >= unit * SECOND and micros % (unit * SECOND) == 0:
            number = micros // (unit * SECOND)
            return f"{number:,} {name}" + ("" if number == 1 else "s")
    return f"{micros / SECOND:g} seconds"


def _sent(around: Situation) -> str:
    if around.delivery is not None and around.delivery in _DELIVERED:
        return _DELIVERED[around.delivery]
    return _QUEUED if around.job.rule == QUEUED else _ENDED[State.SENT]


def _unopened(rule: str | None, around: Situation) -> str:
    if rule != NO_KEY:
        return NOT_OPENED[rule]
    name = "the key" if around.sealed_with is None else f"the encryption key {around.sealed_with!r}"
    return f"it is encrypted, and no worker that tried has {name}; add it to SENDQ_ENCRYPTION_KEYS of every worker"


def _in_doubt(around: Situation, *, now: Micros) -> Why:
    """What is missing, and when the mailbox is searched next; a held or closed lane is not searched."""
    job = around.job
    says = f"{_DOUBT}: {_SEEN[job.seen]}"
    held = _held(around, now=now)
    if around.shut_at is not None:
        return _why(job, "in_doubt", f"{_DOUBT}; {SHUT[around.shut_because or 'lost']}", rule=job.rule)
    if around.lane is not None and around.lane.closed_at is not None:
        return _why(job, "in_doubt", f"{says}; while its lane is closed, no search is made", rule=job.rule)
    if held is not None:
        says = f"{says}; the {held.scope} is held, and no search is made until the hold ends"
        return _why(job, "in_doubt", says, until=held.until, rule=job.rule)
    return _why(
        job, "in_doubt", f"{says}; the next search is scheduled; to resolve it by hand: sendq resolve",
        until=job.look_at, rule=job.rule,
    )  # fmt: skip


def _closed(lane: Lane) -> str:
    if lane.gone:
        return "the grant no longer exists; the job ends within seconds"
    if lane.suspected and lane.closed_rule == GRANT_NOT_FOUND:
        return (
            "the API does not know the grant; it is asked about other grants first, because the API key may belong to "
            "another application"
        )
    if lane.suspected:
        return "the provider refused the grant; the API is asked about it before its owner has to sign in again"
    return "the grant's owner must sign in again"


def _held(around: Situation, *, now: Micros, of_tags: bool = False) -> HoldFacts | None:
    """The hold in force that ends last: of its lane or, if they count, of its tags."""
    of_tags = of_tags and not must_be_repeated(around.job.operation, around.job.doubt_at)
    holds = around.holds + around.tag_holds if of_tags else around.holds
    return max((hold for hold in holds if hold.until > now), key=lambda hold: hold.until, default=None)


def _unserved(around: Situation, *, now: Micros) -> Why:
    """Nothing delays it: it waits for its turn, or for a process to serve it."""
    job, lane = around.job, around.lane
    if not around.workers:
        return _why(job, "no_worker", "no worker is running; start one with: sendq worker", ahead=around.ahead)
    if around.failing_since is not None and (lane is None or lane.turn != "claimed"):
        return _why(job, "failing", f"{FAILING} since {_clock(around.failing_since)}", ahead=around.ahead)
    if around.dispatcher_until <= now:
        says = "no worker is the leader right now; one takes over within seconds"
        if now - around.dispatcher_until > LEADERLESS:
            says = f"no worker has been the leader since {_clock(around.dispatcher_until)}; see: sendq status"
        return _why(job, "no_dispatcher", says, ahead=around.ahead)
    if lane is None or lane.turn != "claimed":
        if around.unpublished_since is not None:
            return _why(job, "broker", f"{UNPUBLISHED} since {_clock(around.unpublished_since)}", ahead=around.ahead)
        if around.unclaimed_since is not None:
            return _why(job, "unclaimed", f"{UNCLAIMED} since {_clock(around.unclaimed_since)}", ahead=around.ahead)
    if lane is not None and lane.ready_at > now:
        return _why(job, "pace", _paced(lane, now), until=lane.ready_at, ahead=around.ahead, eta=_eta(around, now=now))
    if lane is None or (lane.turn is None and (lane.next_at is None or lane.next_at > now)):
        return _why(job, "new", "the leader has not picked it up yet", ahead=around.ahead)
    if lane.turn is not None:
        says = "its lane's turn is in the broker" if lane.turn == "offered" else "its lane is being served"
        eta = _eta(around, now=now)
        return _why(job, "in_line", f"{says}; {_ahead(around.ahead)}", ahead=around.ahead, eta=eta)
    return _why(job, "due", "it is due and waits for a free slot", ahead=around.ahead, eta=_eta(around, now=now))


def _ahead(jobs: int) -> str:
    if not jobs:
        return "it is the next"
    return "1 other job is ahead of it" if jobs == 1 else f"{jobs:,} other jobs are ahead of it"


def _clock(at: Micros) -> str:
    return f"{moment(at):%Y-%m-%d %H:%M:%S} UTC"


def _paced(lane: Lane, now: Micros) -> str:
    """What limits the lane's pace, as a sentence."""
    if lane.stretch:
        return f"the provider throttled the account: calls stay {lane.stretch / SECOND:g} s apart until they succeed"
    if lane.spacing_until > now:
        return f"the grant's quota was exhausted: for a while modifications stay {lane.spacing / SECOND:g} s apart"
    pacer = pacer_of(lane, now=now)
    if pacer.day_is_full:
        says = f"its account has sent the {pacer.pace.daily:,} messages that it may send within 24 hours"
        return says if lane.warm_up is None else f"{says} while it is warmed up; there are more every day"
    limits = [f"{limit.units} per {limit.window / SECOND:g} s" for limit in read(lane.pace, lane.provider).limits]
    says = f"its lane keeps to the limits for {lane.provider} ({', '.join(limits)})"
    costs = [f"{units} units for a {call}" for call, units in sorted(stated_costs(lane.used).items())]
    return f"{says}; its last answers stated {' and '.join(costs)}" if costs else says


def _eta(around: Situation, *, now: Micros) -> Micros | None:
    """About when it starts, if only the pace, holds and the jobs ahead delay it; None: a budget may."""
    job, lane = around.job, around.lane
    if around.room is not None and around.room <= around.ahead and not must_be_repeated(job.operation, job.doubt_at):
        return None
    held = _held(around, now=now, of_tags=True)
    not_before = _opening(around, max(now, job.not_before, held.until if held else 0))
    call = call_of(job.operation, job.form)
    width = 1 if lane is None else lane.width
    return predicted(lane, call, ahead=around.ahead, now=now, not_before=not_before, width=width)


def _why(
    job: JobFacts,
    reason: str,
    says: str,
    *,
    until: Micros | None = None,
    rule: str | None = None,
    by: str | None = None,
    note: str | None = None,
    ahead: int | None = None,
    eta: Micros | None = None,
) -> Why:
    return Why(
        job_id=str(job.id),
        state=State(job.state),
        reason=reason,
        says=says,
        until=moment(until) if until is not None else None,
        rule=rule,
        by=by,
        note=note,
        ahead=ahead,
        eta=moment(eta) if eta is not None else None,
    )
