"""``sendq merge``: mail one message to every row of a CSV file, as a batch."""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import load_settings, open_queue
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import dry_run_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sendq import Message
    from sendq.enqueueing.batch_sends import Refused
    from sendq.errors import Problem

# Problems that a dry run lists: as many as a person may want to mend in a table.
PROBLEMS_MOST = 10_000

_position = re.compile(r"^\[(\d+)\]\.?")


@click.command()
@click.option("--grant", required=True, metavar="ID", help="The account that sends.")
@click.option("--csv", "table", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The recipients: UTF-8, with a header; email is required, name and key are optional.")  # fmt: skip
@click.option("--message", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON with the fields of the message, like subject and body, or template; without to.")  # fmt: skip
@click.option("--delimiter", default=",", show_default=True, help="What separates the columns.")
@click.option("--key", metavar="KEY", help="The batch's key: a repeated command with it changes nothing.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of all messages; repeatable.")
@click.option("--on-outcome", metavar="TARGET", help="Where to report when the last message has ended.")
@click.option("--application", default="default", show_default=True, metavar="NAME", help="The grant's application.")
@dry_run_option("Show what would be refused, line by line, and change nothing. Needs no ledger.")
@json_option
def merge(
    grant: str,
    table: Path,
    message: Path,
    delimiter: str,
    key: str | None,
    tags: tuple[str, ...],
    on_outcome: str | None,
    application: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Mail one message to every row of a CSV file: all of them or none, as a batch.

    {{first_name}} in subject and body is replaced by the row's column of that name. Exit status 1 if something is
    refused: then nothing is enqueued.
    """
    from sendq import InvalidJob, NewBatch, Options
    from sendq.clock import now
    from sendq.enqueueing.batch_sends import check_batch
    from sendq.enqueueing.merging import check_merge, merge_problems

    batch = NewBatch(key=key, tags=_tags(tags), on_outcome=on_outcome, application=application)
    lines: array[int] = array("L")
    try:
        common = _message(message)
        check_batch(batch)
        check_merge(common, Options())
        rows = _rows(table, delimiter, lines)
        if dry_run:
            number, problems = merge_problems(
                grant, common, rows, options=Options(application=application), now=now(),
                metadata_key=load_settings().metadata_key, most=PROBLEMS_MOST,
            )  # fmt: skip
            _tell_checked(number, problems, lines, as_json=as_json)
            return
        with open_queue() as queue:
            made = queue.mail_merge(grant, common, rows, batch=batch)  # type: ignore[arg-type]  # refused rows too
    except InvalidJob as wrong:
        _refuse(wrong.problems, lines)
    if as_json:
        tell_json({"batch_id": made.id, "total": made.total, "existed": made.existed})
        return
    tell(f"batch {made.id}: {counted(made.total or 0, 'message')}" + " (enqueued before)" * made.existed)
    tell(f"to follow it: sendq batch {made.id} --watch; to cancel it: sendq cancel --batch {made.id}")


def _message(path: Path) -> Message:
    from sendq import Message

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise click.BadParameter("is not JSON in UTF-8", param_hint="--message") from None
    return Message.of(fields)


def _tags(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [tag.partition("=") for tag in given]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("has no =: write one like campaign=may", param_hint="--tag")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise click.BadParameter("names a key twice", param_hint="--tag")
    return {name: value for name, _, value in pairs} or None


def _rows(path: Path, delimiter: str, lines: array[int]) -> Iterator[dict[str, str] | Refused]:
    """The rows of the table; ``lines`` gets the line on which each begins."""
    from sendq.enqueueing.batch_sends import Refused
    from sendq.errors import Problem

    if len(delimiter) != 1:
        raise click.BadParameter("is not one character", param_hint="--delimiter")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if "email" not in columns:
                raise click.BadParameter("has no column email in its first line", param_hint="--csv")
            if len(set(columns)) < len(columns):
                raise click.BadParameter("has two columns of one name", param_hint="--csv")
            ended = reader.line_num
            for values in reader:
                began, ended = ended + 1, reader.line_num
                if not values:
                    continue
                lines.append(began)
                if len(values) == len(columns):
                    yield dict(zip(columns, values, strict=True))
                else:
                    reason = f"has {counted(len(values), 'value')} for {counted(len(columns), 'column')}"
                    yield Refused((Problem("row", reason, "put values with a delimiter in quotes"),))
    except UnicodeDecodeError:
        raise click.BadParameter("is not UTF-8; save it as such", param_hint="--csv") from None
    except csv.Error as error:
        raise click.BadParameter(f"cannot be read: {error}", param_hint="--csv") from None


def _said(problem: Problem, lines: array[int]) -> tuple[int | None, str]:
    """The line that a problem is on, and the problem without its position."""
    found = _position.match(problem.field)
    text = f"{_position.sub('', problem.field)} {_position_text(problem.reason, lines)}; {problem.remedy}".strip()
    return (lines[int(found[1])] if found else None), text


def _position_text(reason: str, lines: array[int]) -> str:
    """A reason that names another row by its line."""
    return re.sub(r"of \[(\d+)\]$", lambda found: f"of line {lines[int(found[1])]}", reason)


def _tell_problems(problems: Sequence[Problem], lines: array[int]) -> None:
    for line, text in (_said(problem, lines) for problem in problems):
        complain(text if line is None else f"line {line}: {text}")


def _refuse(problems: Sequence[Problem], lines: array[int]) -> Any:
    _tell_problems(problems, lines)
    complain("nothing was enqueued")
    raise SystemExit(FAILED)


def _tell_checked(number: int, problems: Sequence[Problem], lines: array[int], *, as_json: bool) -> None:
    if as_json:
        said = [dict(zip(("line", "problem"), _said(problem, lines), strict=True)) for problem in problems]
        tell_json({"dry_run": True, "rows": number, "problems": said})
    else:
        _tell_problems(problems, lines)
        bad = len({found[1] for problem in problems if (found := _position.match(problem.field))})
        tell(f"{counted(number, 'row')}, {bad:,} would be refused; nothing was changed")
    if problems or not number:
        raise SystemExit(FAILED)
