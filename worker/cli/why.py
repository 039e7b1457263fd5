"""``sendq why``: why a job is in its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.output import Column, clean, json_option, tell, tell_json, tell_table, when
from worker.cli.params import one_of
from worker.cli.rule_texts import words_of_rules

if TYPE_CHECKING:
    from sendq.views import AttemptView, DeliveryStatus

NOTHING = "Nothing to do."  # a remedy that needs no line


@click.command()
@click.argument("job", required=False)
@click.option("--key", help="The key that the job was enqueued with, instead of its id.")
@click.option("--application", default="default", show_default=True, help="The application that the key belongs to.")
@json_option
def why(job: str | None, key: str | None, application: str, as_json: bool) -> None:
    """Explain why JOB is in its state, what it waits for and until when, and list its attempts."""
    one_of(job, key, "JOB")
    with open_operators() as operators:
        reason = operators.why(job, key=key, application=application)
        seen = operators.job(reason.job_id)
    words = words_of_rules().get(reason.rule or "")
    remedy = words.remedy if words is not None and words.remedy != NOTHING else None
    if as_json:
        tell_json({**reason.as_json(), "remedy": remedy, "job": seen.as_json()})
        return
    tell(f"{seen.operation} {seen.id} is {reason.state}: {reason.says}")
    if reason.until is not None:
        tell(f"until: {when(reason.until)}")
    if reason.rule is not None:
        by = f" (by {reason.by}{f': {clean(reason.note)}' if reason.note else ''})" if reason.by else ""
        tell(f"rule: {reason.rule}{by}")
    if remedy is not None:
        tell(f"remedy: {remedy}")
    if reason.state == "dead":
        tell(f"retry: sendq retry {seen.id} --dry-run")
    if reason.ahead:
        tell(f"jobs ahead in its lane: {reason.ahead:,}")
    tell(f"grant: {seen.grant_id or 'shown once the leader has picked up the job'}; enqueued {when(seen.created_at)}")
    if seen.waits_for_approval:
        tell(f"to approve just this content: sendq approve {seen.id} --content {seen.content_version}")
    if seen.delivery is not None:
        _tell_delivery(seen.delivery)
    if seen.trail:
        tell()
        columns = ("attempt", "seconds", "status", "rule", "decision", "sent", Column("the API's answer", folds=True))
        tell_table(columns, [_attempt_cells(attempt) for attempt in seen.trail])


def _tell_delivery(status: DeliveryStatus) -> None:
    detail = f": {clean(status.detail)}" if status.detail else ""
    by = f" {when(status.at)} ({status.source}){detail}" if status.at is not None else ""
    tell(f"delivery: {status.delivery}{by}")
    if status.recipients:
        tell()
        columns = ("recipient", "digest", "delivery", "at", "what was reported")
        cells = [(one.position, one.digest, one.delivery, one.at, one.detail) for one in status.recipients]
        tell_table(columns, cells, folds=True)


def _attempt_cells(attempt: AttemptView) -> tuple[object, ...]:
    return (
        attempt.begun_at,
        f"{(attempt.ended_at - attempt.begun_at).total_seconds():.2f}",
        attempt.status or "no answer",
        attempt.rule,
        attempt.route or "done",
        attempt.sent,
        attempt.error,
    )
