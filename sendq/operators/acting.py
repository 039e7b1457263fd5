"""What operators do: the half of `Operators` that changes something."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sendq import changes
from sendq.enqueueing.expiry import Expiry
from sendq.enqueueing.spreading import check_window, opening_problems
from sendq.errors import Problem
from sendq.filters import DeadLetterFilter, DeliveryFilter, DoubtFilter, GrantFilter, UnfinishedFilter
from sendq.ids import parse_id
from sendq.ledger.reading.filters import JobFilter
from sendq.ledger.waiting_jobs import Author
from sendq.operators.acts import (
    approve,
    cancel,
    cancel_jobs,
    change,
    deliver_again,
    forget,
    hold,
    hold_grants,
    recover,
    rekey,
    release,
    release_grants,
    resolve,
    retry,
    set_warm_up,
    set_window,
    undo,
)
from sendq.operators.acts.approve import DecisionProgress
from sendq.operators.acts.cancel import CancelBatchProgress, CancelResult
from sendq.operators.acts.cancel_jobs import CancelProgress
from sendq.operators.acts.change import ChangeProgress
from sendq.operators.acts.checks import (
    grant_query_of,
    hold_end,
    instant,
    job_filter_of,
    job_ids,
    refuse,
    require_a_field,
    spacing_of,
)
from sendq.operators.acts.deliver_again import DeliverAgainProgress
from sendq.operators.acts.forget import ForgetProgress
from sendq.operators.acts.hold import HoldResult
from sendq.operators.acts.hold_grants import HoldProgress
from sendq.operators.acts.recover import RecoverProgress
from sendq.operators.acts.rekey import RekeyProgress
from sendq.operators.acts.release import ReleaseResult
from sendq.operators.acts.release_grants import ReleaseProgress
from sendq.operators.acts.resolve import ResolveProgress
from sendq.operators.acts.retry import RetryProgress
from sendq.operators.acts.run import Run
from sendq.operators.acts.set_warm_up import WarmUpResult
from sendq.operators.acts.set_window import WindowProgress
from sendq.operators.acts.undo import UndoResult
from sendq.operators.base import LedgerAccess
from sendq.rules.by_hand import Answer
from sendq.rules.waiting_job import Change, ChangeKind
from sendq.rules.warm_up import WarmUp
from sendq.rules.windows import Window
from sendq.scope import Scope
from sendq.signing import maybe_signed, signed
from sendq.vault import Vault
from sendq.views import GrantState, Priority


class Acting(LedgerAccess):
    """The acts. Each takes ``by`` (a person's name) and ``reason``, one line each, and writes an event with both.

    Those that take a filter concern all that match every field of it, and write one event, which counts what they
    changed; what became of each grant or job is found by its id.

    With ``dry_run`` nothing is changed, and the result shows what would be. An act of one transaction returns its
    result. One that may take many returns a `Run`: iterate over it for its progress, or call `Run.finish`. Such an act
    may be interrupted and run again at any time: what has been done is skipped.

    Every act raises `InvalidArgument` for invalid input, `NotFound` for an invalid id, and what every use of the ledger
    may raise: `LedgerUnavailable`, `SchemaMismatch`, `Retryable`.
    """

    def hold(self, scope: Scope, *, until: datetime, by: str, reason: str, dry_run: bool = False) -> HoldResult:
        """Pause a grant, a provider, an application, or the jobs with a tag until a given time.

        Jobs wait; no attempts are used up. While a tag is held, other jobs of the same lanes go on. Calls in flight are
        finished. A hold never shortens a longer one: see `HoldResult.allowed`.
        """
        by, reason = signed(by, reason)
        now = self._now()
        end = hold_end(until, now=now)
        with self._ledger.reading() if dry_run else self._ledger.writing() as connection:
            return hold.hold(connection, scope, until=end, by=by, reason=reason, dry_run=dry_run, now=now)

    def release(self, scope: Scope, *, by: str, reason: str, dry_run: bool = False) -> ReleaseResult:
        """End a hold now, or reopen the lane of a grant whose owner had to sign in again. One call goes first."""
        by, reason = signed(by, reason)
        with self._ledger.reading() if dry_run else self._ledger.writing() as connection:
            return release.release(connection, scope, by=by, reason=reason, dry_run=dry_run, now=self._now())

    def hold_grants(
        self, which: GrantFilter, *, until: datetime, by: str, reason: str, dry_run: bool = False
    ) -> Run[HoldProgress]:
        """Hold each grant that matches until a given time. A longer hold of a grant is kept.

        For all grants of a provider or an application, those to come included, see `hold`.
        """
        by, reason = signed(by, reason)
        end = hold_end(until, now=self._now())
        require_a_field(which, GrantFilter())
        chosen = grant_query_of(which, ())
        return Run(hold_grants.hold_grants(self._ledger, chosen, until=end, by=by, reason=reason, dry_run=dry_run))

    def release_grants(
        self, which: GrantFilter, *, by: str, reason: str, apart_s: float = 0.0, dry_run: bool = False
    ) -> Run[ReleaseProgress]:
        """Release each grant that matches: its hold ends, or its lane is reopened. A single call of each goes first.

        Each is released ``apart_s`` seconds after the previous one, those held for the longest time first. Without
        ``states``, grants that are closed are released only if a ``rule`` is given. If it is, the holds of providers
        and applications by this rule end too. A grant that no longer exists is not released.
        """
        by, reason = signed(by, reason)
        apart = spacing_of(apart_s)
        require_a_field(which, GrantFilter())
        kept = (GrantState.HELD,) if which.rule is None else (GrantState.HELD, GrantState.CLOSED)
        chosen = grant_query_of(which, kept)
        if GrantState.OPEN in chosen.states:
            refuse([Problem("states", "has open: nothing holds such grants", "give held, closed or both")])
        return Run(
            release_grants.release_grants(self._ledger, chosen, apart=apart, by=by, reason=reason, dry_run=dry_run)
        )

    def retry(
        self,
        which: DeadLetterFilter | Sequence[str],
        *,
        by: str,
        reason: str | None = None,
        limit: int | None = None,
        apart_s: float = 0.0,
        even_partly: bool = False,
        even_overtaken: bool = False,
        dry_run: bool = False,
    ) -> Run[RetryProgress]:
        """Retry dead letters, or jobs that expired: those with these ids, or all that match a filter with some field.

        Bodies and attempts are kept; the next request has a new idempotency key. At most ``limit`` are retried, each
        ``apart_s`` seconds after the previous one. ``even_partly``: also mail that some recipients have or may have,
        who then get it twice. ``even_overtaken``: also changes of messages that have been changed again since.
        """
        by, why = maybe_signed(by, reason)
        problems = []
        if limit is not None and limit < 1:
            problems.append(Problem("limit", "is less than 1", "give at least 1, or None for all"))
        refuse(problems)
        chosen = retry.selection_of(which, even_partly=even_partly, even_overtaken=even_overtaken)
        apart = spacing_of(apart_s)
        return Run(retry.retry(self._ledger, chosen, by=by, reason=why, limit=limit, apart=apart, dry_run=dry_run))

    def resolve(
        self,
        which: DoubtFilter | Sequence[str],
        answer: Answer | str,
        *,
        by: str,
        reason: str,
        message_id: str | None = None,
        apart_s: float = 0.0,
        dry_run: bool = False,
    ) -> Run[ResolveProgress]:
        """Resolve jobs in doubt: those with these ids, or all that match a filter (an empty one matches all of them).

        ``answer``: ``sent`` (with ``message_id``, of one job: the message that it became), ``resend`` (send it again,
        with a new idempotency key: recipients may get it twice) or ``dead`` (give it up). Each that is sent again may
        start ``apart_s`` seconds after the previous one.
        """
        by, reason = signed(by, reason)
        checked = resolve.answer_of(answer)
        resolve.check_message_id(message_id, which, checked)
        chosen = resolve.selection_of(which)
        return Run(
            resolve.resolve(
                self._ledger, chosen, checked, by=by, reason=reason, message_id=message_id, apart=spacing_of(apart_s),
                dry_run=dry_run,
            )
        )  # fmt: skip

    def cancel(self, job_id: str, *, by: str, reason: str | None = None, dry_run: bool = False) -> CancelResult:
        """Cancel a job. The result depends on whether it may have gone out: see `CancelResult`."""
        by, why = maybe_signed(by, reason)
        parsed_id = parse_id(job_id, what="job")
        with self._ledger.reading() if dry_run else self._ledger.writing() as connection:
            return cancel.cancel(connection, parsed_id, by=by, reason=why, dry_run=dry_run, now=self._now())

    def cancel_jobs(
        self, which: UnfinishedFilter, *, by: str, reason: str | None = None, dry_run: bool = False
    ) -> Run[CancelProgress]:
        """Cancel every unfinished job that matches a filter with at least one field. For a whole batch with its walk
        see `cancel_batch`.
        """
        by, why = maybe_signed(by, reason)
        require_a_field(which, UnfinishedFilter())
        chosen = job_filter_of(which)
        return Run(cancel_jobs.cancel_jobs(self._ledger, chosen, by=by, reason=why, dry_run=dry_run))

    def cancel_batch(
        self, batch_id: str, *, by: str, reason: str | None = None, dry_run: bool = False
    ) -> Run[CancelBatchProgress]:
        """Cancel a batch: nothing more of it begins, its waiting jobs end, and a walk stops."""
        by, why = maybe_signed(by, reason)
        parsed_id = parse_id(batch_id, what="batch")
        return Run(cancel.cancel_batch(self._ledger, parsed_id, by=by, reason=why, dry_run=dry_run))

    def reschedule(
        self,
        job_id: str | None = None,
        *,
        due_at: datetime | None,
        expires_at: Expiry = None,
        batch_id: str | None = None,
        key: str | None = None,
        application: str = "default",
        by: str,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Run[ChangeProgress]:
        """Change when a job that waits, or the waiting jobs of a batch, may begin: see `SendQueue.reschedule`.

        This act and the following three also raise `NotWaiting`, if the job or batch cannot be changed any more.
        """
        change_ = changes.reschedule_of(due_at, expires_at, now=self._now())
        return self._change(change_, job_id, batch_id, key, application, by, reason, dry_run=dry_run)

    def set_priority(
        self,
        job_id: str | None = None,
        *,
        priority: Priority | str | int,
        batch_id: str | None = None,
        key: str | None = None,
        application: str = "default",
        by: str,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Run[ChangeProgress]:
        """Change the priority of a job that waits, or of the waiting jobs of a batch."""
        change_ = changes.priority_of(priority)
        return self._change(change_, job_id, batch_id, key, application, by, reason, dry_run=dry_run)

    def hold_job(
        self,
        job_id: str | None = None,
        *,
        batch_id: str | None = None,
        key: str | None = None,
        application: str = "default",
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[ChangeProgress]:
        """Keep a job that waits, or the waiting jobs of a batch, from beginning until it is released."""
        return self._change(changes.HOLD, job_id, batch_id, key, application, by, reason, dry_run=dry_run)

    def release_job(
        self,
        job_id: str | None = None,
        *,
        batch_id: str | None = None,
        key: str | None = None,
        application: str = "default",
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[ChangeProgress]:
        """End the hold of a job or batch."""
        return self._change(changes.RELEASE, job_id, batch_id, key, application, by, reason, dry_run=dry_run)

    def set_window(
        self,
        grant_id: str,
        window: Window | None,
        *,
        application: str = "default",
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[WindowProgress]:
        """Set or remove (None) a grant's window: the hours in which its jobs may begin, unless they have their own.

        It applies at once, to waiting jobs and to new ones, and also to a grant that had no job yet. A call that a
        worker is about to make is still made.
        """
        by, reason = signed(by, reason)
        refuse(check_window(window))
        refuse([] if window is None else opening_problems(window, self._now(), None))
        scope = Scope.of_grant(grant_id, application)
        wanted = None if window is None else str(window)
        return Run(
            set_window.set_window(
                self._ledger, scope.application, grant_id, wanted, by=by, reason=reason, dry_run=dry_run
            )
        )

    def set_warm_up(
        self,
        grant_id: str,
        warm_up: WarmUp | None,
        *,
        application: str = "default",
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> WarmUpResult:
        """Warm up a new account: its limit of messages within 24 hours grows every day from now on. None: end it.

        Mail above the limit waits, whatever its priority. A daily limit in the workers' settings counts as well.
        """
        by, reason = signed(by, reason)
        given: object = warm_up
        if given is not None and not isinstance(given, WarmUp):
            refuse([Problem("warm_up", "is not a sendq.WarmUp", "create one: WarmUp(first=20, growth=1.2, most=700)")])
        scope = Scope.of_grant(grant_id, application)
        with self._ledger.reading() if dry_run else self._ledger.writing() as connection:
            return set_warm_up.set_warm_up(
                connection, scope.application, grant_id, warm_up, by=by, reason=reason, dry_run=dry_run,
                now=self._now(),
            )  # fmt: skip

    def _change(
        self,
        wanted: Change,
        job: str | None,
        batch: str | None,
        key: str | None,
        application: str,
        by: str,
        reason: str | None,
        *,
        dry_run: bool,
    ) -> Run[ChangeProgress]:
        author = changes.author_of(by, reason)
        parts = change.change(self._ledger, job, batch, key, application, wanted, author, dry_run=dry_run)
        return Run(parts)

    def approve(
        self,
        which: UnfinishedFilter | Sequence[str],
        *,
        content: int | None = None,
        seen_at: datetime | None = None,
        by: str,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Run[DecisionProgress]:
        """Approve jobs that wait for approval: those with these ids, or all that match a filter with some field.

        A filter of nothing but a batch is about the batch as a whole, which has to be complete: closed, and its
        messages found; else this raises `NotWaiting`. Jobs that are enqueued, or whose message is replaced, after this
        began are not approved.

        ``content``: of one job: its content version (`JobView.content_version`) when it was read; if it has another one
        now, it is refused. ``seen_at``: for a filter: when the content was read; jobs whose message was replaced since
        are left alone. None: the filter's ``until``, or else now.
        """
        return self._decide(which, ChangeKind.APPROVE, content, seen_at, by, reason, dry_run=dry_run)

    def reject(
        self,
        which: UnfinishedFilter | Sequence[str],
        *,
        content: int | None = None,
        seen_at: datetime | None = None,
        by: str,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Run[DecisionProgress]:
        """End jobs that wait for approval: they are cancelled, rule ``rejected``; the rest as in `approve`."""
        return self._decide(which, ChangeKind.REJECT, content, seen_at, by, reason, dry_run=dry_run)

    def _decide(
        self,
        which: UnfinishedFilter | Sequence[str],
        kind: ChangeKind,
        content: int | None,
        seen_at: datetime | None,
        by: str,
        reason: str | None,
        *,
        dry_run: bool,
    ) -> Run[DecisionProgress]:
        author = Author(*maybe_signed(by, reason))
        decision = changes.decision_of(kind, content)
        seen = None if seen_at is None else instant("seen_at", seen_at)
        chosen: JobFilter | list[UUID]
        if isinstance(which, UnfinishedFilter):
            require_a_field(which, UnfinishedFilter())
            chosen = job_filter_of(which)
        else:
            chosen = job_ids(which)
        if content is not None and (isinstance(chosen, JobFilter) or len(set(chosen)) > 1):
            refuse([Problem("content", "is given for several jobs", "leave it out, or name one job")])
        return Run(approve.decide(self._ledger, chosen, decision, author, seen_at=seen, dry_run=dry_run))

    def undo(
        self,
        batch_id: str,
        *,
        undo_key: str | None = None,
        vault: Vault | None = None,
        by: str,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> UndoResult:
        """Undo a batch of modifications that keeps snapshots, as `SendQueue.undo` does.

        ``vault``: the encryption keys, if there are any.
        """
        author, key = changes.author_of(by, reason), changes.undo_key_of(undo_key)
        with self._ledger.writing() as connection:
            return undo.undo_batch(
                connection, parse_id(batch_id, what="batch"), author, key=key, vault=vault or Vault(), dry_run=dry_run,
                now=self._now(),
            )  # fmt: skip

    def forget(
        self, grant_id: str, application: str = "default", *, by: str, reason: str, dry_run: bool = False
    ) -> Run[ForgetProgress]:
        """Erase what the ledger keeps of a grant's mail (bodies, addresses, errors), and cancel its waiting jobs.

        The record of the jobs is kept: ids, times, states, and keys as the application wrote them. Jobs whose call is
        in flight or that are in doubt are not changed (`ForgetProgress.left`): forget again once they have ended.
        """
        by, reason = signed(by, reason)
        scope = Scope.of_grant(grant_id, application)
        return Run(forget.forget(self._ledger, grant_id, scope.application, by=by, reason=reason, dry_run=dry_run))

    def recover(self, since: datetime | None, *, by: str, reason: str, dry_run: bool = False) -> Run[RecoverProgress]:
        """Recover a ledger that was restored from a backup or failed over with loss, and dispatch its jobs again.

        ``since``: when its history ends. Every send that was unfinished then, due or not, is put in doubt and
        searched for in its mailbox; changes of messages return to the queue. None: nothing was lost, no job is changed.
        """
        by, reason = signed(by, reason)
        at = recover.start_of(self._ledger, since)
        return Run(recover.recover(self._ledger, at, by=by, reason=reason, dry_run=dry_run))

    def rekey(self, vault: Vault, *, by: str, reason: str | None = None, dry_run: bool = False) -> Run[RekeyProgress]:
        """Encrypt everything in the ledger with the first key of ``vault``, while workers keep running.

        Every worker and every application must have the new key first.
        """
        by, why = maybe_signed(by, reason)
        rekey.first_key(vault)
        return Run(rekey.rekey(self._ledger, vault, by=by, reason=why, dry_run=dry_run))

    def deliver_again(
        self, which: DeliveryFilter | Sequence[str], *, by: str, reason: str | None = None, dry_run: bool = False
    ) -> Run[DeliverAgainProgress]:
        """Retry deliveries of outcomes now, and for another 72 hours: those with these ids, or all that match.

        Outcomes that a receiver has accepted are not delivered again.
        """
        by, why = maybe_signed(by, reason)
        chosen = deliver_again.selection_of(which)
        return Run(deliver_again.deliver_again(self._ledger, chosen, by=by, reason=why, dry_run=dry_run))
