"""From what came back to one decision: a value that one place applies. Pure; time and chance come in as arguments.

The policy's row says what kind of failure it is; what becomes of *this* job depends on its facts as well, and three
questions are settled here for every row alike:

*May it have gone out?* After an unknown outcome the same key and the same bytes go again, while the key is young; a
send whose key can no longer tell is in doubt, never dead and never sent under a new key. The generation moves only
after a definite "not sent": a refusal of the only request under this key, or a *replayed* one, which is the API's
stored answer to the first request. Any other refusal after an unknown outcome proves nothing, from whatever source:
it is documented nowhere whether the API checks grant, throttle and quota before it looks the key up. It keeps the key,
and what it says about the grant holds nevertheless. A refusal by a proxy proves nothing either: it may have kept back
the API's answer. *Is it free?* A hold costs no attempt and advances no backoff. *Is there still time?* Nothing is tried
again after the job's expiry.

Modifications are idempotent at the API: they are tried again, then dead-lettered, and never in doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sendq.clock import SECOND, Micros, seconds
from sendq.facts.outcomes import Hold, Scope, Sent
from sendq.rules.states import Event
from tasks.policy.failure import Failure, Success
from tasks.policy.row import DAY_S, Backoff, Policy, Route, Row
from tasks.policy.table import POLICY

# The API forgets a key one hour after its first use. 45 minutes leave room for a request that is slow to leave (150 s)
# and for clocks that differ by minutes: a key is never used in the quarter of an hour in which it may mean a new
# message.
KEY_TRUSTED: Micros = 2700 * SECOND

# "A request with the same key is still running" ends within the API's own deadline of 150 s at the most; sixty tries,
# three seconds apart or more, outlast it. After that the key is stuck (this happened), and only a look at the mailbox
# can tell.
CONCURRENT_TRIES = 60

# A final refusal after an unknown outcome: the same key is asked again, until its stored answer comes or it is too old.
# The first repeat mostly settles it.
ASK_AGAIN = Backoff(base=5, cap=300, number=None)

# Lanes that were held together should not come back in the same instant: up to a twentieth of the wait on top, one
# minute at most, and never less than what was asked for.
SPREAD_SHARE = 0.05
SPREAD_MAX: Micros = 60 * SECOND


class JobFacts(NamedTuple):
    """What the decision needs to know about the job.

    operation       ``send`` or ``modify``
    attempts        attempts used up before this call (free ones are not counted)
    generation      of the idempotency key
    key_age         since the first request that carried this key (0 for the first)
    expires_at      None if it never expires
    unknown_before  an earlier request of this generation ended without a known outcome
    attempt_known   the ledger has an earlier attempt with this key; a replayed answer is then no news
    conflicts       how many "still running" answers in a row came before this one
    streak          holds of the scope that ended without a success since (a repeated incident waits longer)
    outage          calls of other grants met the same: a row that escalates holds the application
    """

    operation: str
    attempts: int = 0
    generation: int = 0
    key_age: Micros = 0
    expires_at: Micros | None = None
    unknown_before: bool = False
    attempt_known: bool = False
    conflicts: int = 0
    streak: int = 0
    outage: bool = False


class Decision(NamedTuple):
    """What becomes of a job, and of whom else.

    event           the move in `sendq.rules.states`
    row             the policy's row; for a success `ACCEPTED` or `QUEUED`
    sent            whether the message may have gone out, which the job's earlier requests can make less sure than the
                    row alone does
    due_at, wait    set when the job returns to the queue; under reauth the job is due at once and its lane is closed
    hold            concerns more than the job
    costs_attempt   whether it uses up one of the job's attempts
    new_generation  the next request uses a new key, because this one is known not to have been sent
    old_news        a replayed answer that took effect when it was new: only the job learns of it
    refused         a doubt whose request was answered: it was refused, and its key keeps that answer
    """

    event: Event
    row: Row
    sent: Sent
    due_at: Micros | None = None
    wait: Micros | None = None
    hold: Hold | None = None
    costs_attempt: bool = False
    new_generation: bool = False
    old_news: bool = False
    refused: bool = False

    @property
    def rule(self) -> str:
        """The name of its row."""
        return self.row.id

    @property
    def width(self) -> int | None:
        """Calls at once that the lane keeps to from now on; None: as before."""
        return None if self.old_news else self.row.width

    @property
    def spacing(self) -> Micros | None:
        """The time between two modifications that the lane keeps to from now on; None: as before."""
        return None if self.old_news or self.row.spacing is None else seconds(self.row.spacing)


SEND_DOC = "https://developer.nylas.com/docs/v3/email/send-email/"

ACCEPTED = Row(
    id="accepted",
    title="Accepted",
    status=("2xx",),
    route=None,
    scope=Scope.JOB,
    sent=Sent.YES,
    why="The API and the provider took it.",
    remedy="Nothing to do.",
    source=SEND_DOC,
    costs=True,
)
QUEUED = replace(
    ACCEPTED, id="queued", title="Queued by the API", status=(202,), why="The API took it into its own queue."
)


def decide(
    outcome: Success | Failure,
    job: JobFacts,
    *,
    now: Micros,
    chance: Callable[[], float],
    policy: Policy = POLICY,
) -> Decision:
    """The decision for one outcome of one call.

    ``chance`` returns numbers from 0 to 1 (``random.random``). Never raises for any outcome that
    `tasks.policy.failure.parse` can return.
    """
    if isinstance(outcome, Success):
        return Decision(Event.ACCEPT, accepted(outcome), Sent.YES, costs_attempt=not outcome.replayed)
    row = policy.rule(outcome)
    if job.outage and row.escalates is not None:
        row = replace(row, route=Route.REQUEUE, scope=Scope.APPLICATION, wait=row.escalates, backoff=None, costs=False)
    decision = Decision(Event.RETURN, row, row.sent, costs_attempt=row.costs and not outcome.replayed)
    if job.operation == "send" and not _definitely_not_sent(row, outcome, job):
        return _unknown(decision, outcome, job, now=now, chance=chance)
    decision = decision._replace(new_generation=_uses_up_key(row, outcome, job))
    if _parks(row):
        return _return(decision, outcome, job, now=now, chance=chance)
    if row.route is Route.DEAD_LETTER or (row.route is Route.RETRY and _exhausted(row, outcome, job)):
        # A dead letter of a whole grant: it is gone, and what else waits for it will fare no better.
        gone = (
            _hold(row, None, outcome.provider) if row.route is Route.DEAD_LETTER and row.scope is Scope.GRANT else None
        )
        return decision._replace(event=Event.GIVE_UP, new_generation=False, hold=gone)
    return _return(decision, outcome, job, now=now, chance=chance)


def accepted(success: Success) -> Row:
    """The row of a success."""
    return QUEUED if success.queued else ACCEPTED


def wait_range(row: Row, failure: Failure, job: JobFacts, *, now: Micros) -> tuple[Micros, Micros] | None:
    """The shortest and the longest wait that the row allows here; None if it does not wait at all.

    Inside the range chance decides. A hold lasts what was stated, or the row's default, with a small spread on top; a
    retry has jitter above its shortest wait.
    """
    if row.route in (Route.DEAD_LETTER, Route.REAUTH):
        return None
    if row.backoff is None:
        wait = row.wait.lasts(failure.stated, now=now, streak=job.streak) if row.wait else 0
        return wait, wait + min(SPREAD_MAX, round(wait * SPREAD_SHARE))
    floor, cap = (row.wait.floor, row.wait.cap) if row.wait else (0.0, DAY_S)
    least = min(seconds(cap), max(seconds(max(floor, row.backoff.floor)), failure.stated or 0))
    ceiling = seconds(row.backoff.ceiling(job.attempts + job.streak))
    return least, least + ceiling if failure.stated else max(least, ceiling)


def _hold(row: Row, until: Micros | None, provider: str) -> Hold:
    # Grants whose provider is unknown have nothing in common: one of them must not hold the others.
    identify = row.scope is Scope.PROVIDER and provider == "unknown"
    return Hold(
        Scope.GRANT if identify else row.scope,
        row.id,
        "policy",
        until,
        suspected=row.check_grant,
        gone=row.route is Route.DEAD_LETTER and not row.check_grant,
        missing=row.route is Route.DEAD_LETTER and row.check_grant,
        identify=identify,
    )


def _parks(row: Row) -> bool:
    """Whether the job waits until it is known what is the matter with its grant."""
    return row.route is Route.REAUTH or (
        row.route is Route.DEAD_LETTER and row.scope is Scope.GRANT and row.check_grant
    )


def _definitely_not_sent(row: Row, failure: Failure, job: JobFacts) -> bool:
    """Whether this answer rules out that the message went out, under this key, now or before."""
    if row.sent is Sent.PARTLY:
        return True  # its rule never sends it again: there is nothing left to ask
    if row.sent is not Sent.NO or _hides_the_api(failure):
        return False
    return not job.unknown_before or failure.replayed


def _hides_the_api(failure: Failure) -> bool:
    """Whether somebody in between answered, who may have passed the request on and kept the API's answer back.

    A proxy that blocks answers would otherwise get the message sent under a new key each time. Limits on rate (429) and
    size (413) are applied before a request is passed on, and a stored answer is the API's own.
    """
    status = failure.status
    if status is None or status in (413, 429) or failure.replayed:
        return False
    return failure.origin == "edge" or status // 100 == 3 or status == 407


def _uses_up_key(row: Row, failure: Failure, job: JobFacts) -> bool:
    """Whether the API keeps this failure under the key, so that only a new key can bring another answer."""
    return job.operation == "send" and failure.status is not None and row.sent is Sent.NO


def _exhausted(row: Row, failure: Failure, job: JobFacts) -> bool:
    number = row.backoff.number if row.backoff else None
    return number is not None and not failure.replayed and job.attempts + 1 >= number


def _unknown(
    decision: Decision, failure: Failure, job: JobFacts, *, now: Micros, chance: Callable[[], float]
) -> Decision:
    """A send that may have gone out: the same key again while it can tell, else in doubt."""
    row = decision.row
    in_doubt = decision._replace(event=Event.DOUBT, sent=Sent.MAYBE)
    if row.route is Route.DEAD_LETTER and not _parks(row):
        # The row alone would close the job, and so bury a message that may have gone out.
        if row.scope is Scope.GRANT:
            return in_doubt._replace(hold=_hold(row, None, failure.provider))  # nobody answers for a grant that is gone
        if row.sent is Sent.MAYBE:
            unknown = job.unknown_before or failure.status is None  # no answer came from anything that could know
            return in_doubt if unknown else decision._replace(event=Event.GIVE_UP)
        row = replace(row, route=Route.RETRY, backoff=ASK_AGAIN, wait=None)
        decision = decision._replace(row=row, costs_attempt=True)
    if row.route is Route.RETRY:
        stuck = row.id == "key_in_progress" and job.conflicts + 1 >= CONCURRENT_TRIES
        if failure.replayed or stuck or _exhausted(row, failure, job):
            return in_doubt
    again = _return(decision._replace(sent=Sent.MAYBE), failure, job, now=now, chance=chance)
    first = failure.replayed or not job.unknown_before
    if row.route is Route.REQUEUE and row.sent is Sent.MAYBE and first and not (_hides_the_api(failure) or job.outage):
        # The answer to the first request, which the API keeps under the key: to ask with it again would bring the same
        # answer, and a new key may send it twice. Only the mailbox can tell, once the hold is over.
        return in_doubt._replace(hold=again.hold, old_news=again.old_news, refused=True)
    held = again.hold is not None  # a hold never moves a generation: the job is reconciled when it ends, if need be
    too_late = job.expires_at is not None and (again.due_at or now) >= job.expires_at
    if not held and (too_late or job.key_age + (again.wait or 0) >= KEY_TRUSTED):
        return in_doubt
    return again


def _return(
    decision: Decision, failure: Failure, job: JobFacts, *, now: Micros, chance: Callable[[], float]
) -> Decision:
    """Back to the queue, with a wait, and a hold if the row concerns more than the job."""
    row = decision.row
    if failure.replayed and job.attempt_known and row.scope is not Scope.JOB:
        # When it was new it was acted on. Whether the scope is still to be held, the lane knows better.
        return _in_time(decision._replace(old_news=True, due_at=now, wait=0), job, now)
    if _parks(row):
        return _in_time(decision._replace(due_at=now, wait=0, hold=_hold(row, None, failure.provider)), job, now)
    low, high = wait_range(row, failure, job, now=now) or (0, 0)
    wait = round(low + (high - low) * chance())
    hold = _hold(row, now + wait, failure.provider) if row.scope is not Scope.JOB else None
    return _in_time(decision._replace(due_at=now + wait, wait=wait, hold=hold), job, now)


def _in_time(decision: Decision, job: JobFacts, now: Micros) -> Decision:
    """Expired instead, if the job's time is over before it could be tried again.

    Under a hold it stays in the queue until then: the hold may be released earlier, by a probe or by hand.
    """
    if job.expires_at is None or decision.sent is Sent.MAYBE:
        return decision
    first_chance = now if decision.hold else decision.due_at or now
    if first_chance < job.expires_at:
        return decision
    return decision._replace(event=Event.EXPIRE, due_at=None, wait=None, new_generation=False)
