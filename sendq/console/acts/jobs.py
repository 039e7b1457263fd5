"""Retry, resolve and cancel: one job, or all that match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sendq.console.acts.act import Act, Choice, Given, Preview, count, rate_choice
from sendq.console.runs import Facts
from sendq.console.texts import words
from sendq.errors import NotFound
from sendq.filters import DeadLetterFilter, DoubtFilter, UnfinishedFilter
from sendq.operators import Operators
from sendq.rules.by_hand import Answer, ResendRefusal, RetryRefusal
from sendq.rules.states import State

# A preview examines this many dead letters one by one; the rest are counted.
EXAMINED = 1_000

REFUSALS: Mapping[RetryRefusal, str] = {
    RetryRefusal.PARTLY: "some recipients have it, and would get it twice",
    RetryRefusal.MAYBE: "it may have been sent, and could arrive twice",
    RetryRefusal.OVERTAKEN: "a newer change of the same message was made since",
    RetryRefusal.CANCELLED: "it was cancelled while its call was in flight",
    RetryRefusal.GONE: "its grant no longer exists",
    RetryRefusal.FORGOTTEN: "its body was erased",
}

# The filters of jobs in an address.
FILTERS = ("rule", "provider", "application", "grant", "batch", "tag", "since")
FIELDS = (*FILTERS, "until")


def job_filters(given: Given) -> dict[str, Any]:
    """The filters of jobs as arguments of `DeadLetterFilter`, `DoubtFilter` and `UnfinishedFilter`."""
    return {
        "rule": given.get("rule"),
        "provider": given.get("provider"),
        "application": given.get("application"),
        "grant_id": given.get("grant"),
        "batch_id": given.get("batch"),
        "tag": given.get("tag"),
        "since": given.since,
        # By itself it is no filter: it would match everything.
        "until": given.until if any(given.get(name) for name in FILTERS) else None,
    }


def job_page(job_id: str) -> tuple[str, ...]:
    """The page of a job."""
    return "jobs", job_id


class Retry(Act):
    """Retry a dead letter, or all that match."""

    name = "retry"
    fields = ("job", "state", *FIELDS)

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many would be retried, and which would not."""
        which = self._which(given)
        tried = operators.retry(
            which, by=given.by, limit=EXAMINED, even_partly=given.checked("even_partly"), dry_run=True
        ).finish()
        total = tried.retried + sum(tried.refused.values())
        if isinstance(which, DeadLetterFilter):
            total = max(total, self._count(operators, which))
        capped = tried.retried >= EXAMINED
        facts = [("Dead letters that match", f"{total:,}")]
        facts.append(("Would be retried", f"{tried.retried:,}" + (" or more" if capped else "")))
        facts += [(f"Stay: {REFUSALS[reason]}", f"{number:,}") for reason, number in sorted(tried.refused.items())]
        warnings = [
            f"The job is {words(state) if state else 'not in this ledger'}." for state in tried.not_dead.values()
        ]
        if not total and not warnings:
            warnings.append("No dead letter matches.")
        elif total and not tried.retried:
            warnings.append("None of them can be retried.")
        choices = [Choice("even_partly", "Also mail that some recipients have or may have", check=True,
                          hint="They get it twice.")]  # fmt: skip
        if isinstance(which, DeadLetterFilter):
            choices.insert(0, rate_choice("as fast as their accounts allow"))
        number = count(total if capped else tried.retried, "dead letter")
        return Preview(
            what="Retry a dead letter" if not isinstance(which, DeadLetterFilter) else f"Retry {number}",
            button=f"Retry {number}",
            facts=facts,
            back=job_page(which[0]) if not isinstance(which, DeadLetterFilter) else ("dead",),
            warnings=warnings,
            # Those that some recipients have can be retried all the same.
            possible=bool(tried.retried or tried.refused.keys() & {RetryRefusal.PARTLY, RetryRefusal.MAYBE}),
            choices=choices,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred dead letters in each step."""
        run = operators.retry(
            self._which(given),
            by=given.by,
            reason=given.reason,
            apart_s=given.apart_s,
            even_partly=given.checked("even_partly"),
        )
        for part in run:
            refused = [(f"Stayed: {REFUSALS[one]}", f"{number:,}") for one, number in sorted(part.refused.items())]
            yield ("Retried", f"{part.retried:,}"), *refused

    def _which(self, given: Given) -> DeadLetterFilter | list[str]:
        job = given.get("job")
        if job is not None:
            return [job]
        return DeadLetterFilter(state=given.get("state") or State.DEAD.value, **job_filters(given))

    def _count(self, operators: Operators, which: DeadLetterFilter) -> int:
        if which.state != State.DEAD:
            return 0
        counts = operators.dead_letter_counts(
            application=which.application,
            provider=which.provider,
            grant_id=which.grant_id,
            rule=which.rule,
            batch_id=which.batch_id,
            since=which.since,
        )
        return sum(one.number for one in counts)


class Resolve(Act):
    """Answer what became of a job in doubt, or of all that match."""

    name = "resolve"
    fields = ("job", *FIELDS)
    answers = (
        (Answer.SENT.value, "It was sent"),
        (Answer.RESEND.value, "Send it again: recipients may get it twice"),
        (Answer.DEAD.value, "Give it up"),
    )

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many are in doubt."""
        which = self._which(given)
        tried = operators.resolve(which, Answer.SENT, by=given.by, reason="-", dry_run=True).finish()
        warnings = [f"The job is {words(state) if state else 'not in this ledger'}, not in doubt."
                    for state in tried.not_in_doubt.values()]  # fmt: skip
        one = not isinstance(which, DoubtFilter)
        choices = [Choice("answer", "Answer", self.answers, value=Answer.SENT.value)]
        if one:
            choices.append(Choice("message_id", "Message id", hint="Of the message that it became, if you know it."))
        number = count(tried.resolved, "job")
        return Preview(
            what="Resolve a job in doubt" if one else f"Resolve {number} in doubt",
            button=f"Resolve {number}",
            facts=[("In doubt", number)],
            back=job_page(which[0]) if not isinstance(which, DoubtFilter) else ("doubts",),
            warnings=warnings or ([] if tried.resolved else ["No job in doubt matches."]),
            possible=tried.resolved > 0,
            danger=True,
            choices=choices,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred jobs in each step."""
        answer = given.get("answer") or ""
        message_id = given.get("message_id") if answer == Answer.SENT.value else None
        run = operators.resolve(
            self._which(given), answer, by=given.by, reason=given.reason, message_id=message_id, apart_s=given.apart_s
        )
        for part in run:
            refused: Sequence[tuple[ResendRefusal, int]] = sorted(part.refused.items())
            yield (
                ("Answer", words(part.answer)),
                ("Resolved", f"{part.resolved:,}"),
                *((f"Stayed in doubt: {words(one)}", f"{number:,}") for one, number in refused),
            )

    def _which(self, given: Given) -> DoubtFilter | list[str]:
        job = given.get("job")
        if job is not None:
            return [job]
        if not any(given.get(name) for name in FILTERS):
            raise NotFound("this address names neither a job nor a filter")
        return DoubtFilter(**job_filters(given))


class Cancel(Act):
    """Cancel a job."""

    name = "cancel"
    fields = ("job",)

    def preview(self, operators: Operators, given: Given) -> Preview:
        """What becomes of it."""
        result = operators.cancel(given.get("job") or "", by=given.by, dry_run=True)
        warnings = [f"It has ended already: {words(result.before)}."] if result.ended_before else []
        if not result.ended_before and result.state is State.SENDING:
            warnings.append("Its call is in flight: it is cancelled if the answer is that it was not sent.")
        if result.followers:
            warnings.append(f"Jobs that follow it, and end with it: {result.followers:,}.")
        if not result.ended_before and result.state is State.IN_DOUBT:
            warnings.append("It may have been sent: it is not tried again, and stays in doubt until that is known.")
        return Preview(
            what="Cancel a job",
            button="Cancel the job",
            facts=[("Now", words(result.before)), ("After", words(result.state))],
            back=job_page(result.job_id),
            warnings=warnings,
            possible=not result.ended_before,
            danger=True,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        result = operators.cancel(given.get("job") or "", by=given.by, reason=given.reason)
        yield ("Before", words(result.before)), ("Now", words(result.state))


class CancelAll(Act):
    """Cancel every job that matches and has not ended."""

    name = "cancel-all"
    fields = FIELDS

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many there are, and what becomes of them."""
        tried = operators.cancel_jobs(self._which(given), by=given.by, dry_run=True).finish()
        jobs = count(tried.number, "job")
        return Preview(
            what=f"Cancel {jobs}",
            button=f"Cancel {jobs}",
            facts=[(f"Then {words(state)}", f"{number:,}") for state, number in tried.states.items()],
            back=("jobs",),
            warnings=[] if tried.number else ["No unfinished job matches."],
            possible=tried.number > 0,
            danger=True,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred jobs in each step."""
        for part in operators.cancel_jobs(self._which(given), by=given.by, reason=given.reason):
            yield tuple((words(state).capitalize(), f"{number:,}") for state, number in part.states.items())

    def _which(self, given: Given) -> UnfinishedFilter:
        return UnfinishedFilter(**job_filters(given))


class CancelBatch(Act):
    """Cancel a batch."""

    name = "cancel-batch"
    fields = ("batch",)

    def preview(self, operators: Operators, given: Given) -> Preview:
        """What is left of it."""
        seen = operators.cancel_batch(given.get("batch") or "", by=given.by, dry_run=True).finish().batch
        over = seen.finished_at is not None
        return Preview(
            what="Cancel a batch",
            button=f"Cancel {count(seen.waiting, 'job')}",
            facts=[("Waiting jobs", f"{seen.waiting:,}"), *_counts(seen.counts)],
            back=("batches", seen.id),
            warnings=["It has ended already."] if over else [],
            possible=not over and seen.cancelled_at is None,
            danger=True,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred jobs in each step."""
        for part in operators.cancel_batch(given.get("batch") or "", by=given.by, reason=given.reason):
            yield ("Waiting jobs", f"{part.batch.waiting:,}"), *_counts(part.batch.counts)


def _counts(counts: Mapping[State, int]) -> list[tuple[str, str]]:
    return [(words(state).capitalize(), f"{number:,}") for state, number in counts.items()]
