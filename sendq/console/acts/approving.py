"""Approve or reject what waits for approval: one job, a batch, or all that match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from sendq.console.acts.act import Act, Given, Preview, count
from sendq.console.acts.jobs import FIELDS, job_filters, job_page
from sendq.console.runs import Facts
from sendq.errors import NotWaiting
from sendq.filters import UnfinishedFilter
from sendq.operators import DecisionProgress, Operators, Run


class Approve(Act):
    """Approve it: it may begin when it is due."""

    name = "approve"
    fields = ("job", "content", *FIELDS)
    verb, done = "Approve", "Approved"
    danger = False

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many wait for approval. Of one job it is its content as it is now, unless the address says which."""
        job, batch = given.get("job"), given.get("batch")
        number, warnings, fixed = 0, list[str](), dict[str, str]()
        if job is not None and given.get("content") is None:
            fixed["content"] = str(operators.job(job).content_version)
        try:
            tried = self._run(operators)(self._which(given), **self._seen(given), by=given.by, dry_run=True).finish()
            number = tried.number
            warnings += [f"{problem.removesuffix('; nothing was changed')}." for problem in tried.refused.values()]
        except NotWaiting as error:
            warnings.append(f"{str(error).removesuffix('; nothing was changed')}.")
        if not number and not warnings:
            warnings.append("No job that matches waits for approval.")
        jobs = count(number, "job")
        return Preview(
            what=f"{self.verb} a job" if job else f"{self.verb} {jobs}",
            button=f"{self.verb} {'the job' if job else jobs}",
            facts=[("Wait for approval", f"{number:,}")],
            back=job_page(job) if job else ("batches", batch) if batch else ("jobs",),
            warnings=warnings,
            possible=number > 0,
            danger=self.danger,
            fixed=fixed,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred jobs in each step."""
        with suppress(NotWaiting):  # decided or ended since the preview; the result counts none
            for part in self._run(operators)(self._which(given), **self._seen(given), by=given.by, reason=given.reason):
                yield (self.done, count(part.number, "job")), *(("Left", problem) for problem in part.refused.values())

    def _run(self, operators: Operators) -> Callable[..., Run[DecisionProgress]]:
        return operators.approve

    def _seen(self, given: Given) -> dict[str, Any]:
        """Which content the person has seen: of one job its version, of several the time of the preview."""
        if given.get("job") is None:
            return {"seen_at": given.until}
        return {"content": given.content}

    def _which(self, given: Given) -> UnfinishedFilter | Sequence[str]:
        job = given.get("job")
        if job is not None:
            return [job]
        filters = job_filters(given)
        if filters["batch_id"] is not None and not any(
            value for name, value in filters.items() if name not in ("batch_id", "until", "rule")
        ):
            return UnfinishedFilter(batch_id=filters["batch_id"])  # as a whole
        return UnfinishedFilter(**filters)


class Reject(Approve):
    """Reject it: it is cancelled."""

    name = "reject"
    verb, done = "Reject", "Rejected"
    danger = True

    def _run(self, operators: Operators) -> Callable[..., Run[DecisionProgress]]:
        return operators.reject
