"""``sendq merge``: mail one message to every row of a CSV file, as a batch."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.connection import load_settings, open_queue
from worker.cli.message_file import message_option, read_message, tell_problems
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import dry_run_option, duration, window
from worker.cli.wording import on_command_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from sendq import Message, NewBatch, Window
    from sendq.enqueueing.batch_sends import Refused
    from sendq.errors import Problem
    from sendq.views import Batch, MergeCheck

# Problems that a dry run lists: as many as a person may want to correct in a table.
PROBLEMS_MOST = 10_000

# What separates columns, and how a shell writes it.
DELIMITERS = {";": "';'", "\t": "$'\\t'", "|": "'|'", ",": "','"}

# Columns that have a meaning, and are found however they are capitalised.
MEANT = ("email", "name", "key")

_position = re.compile(r"^\[(\d+)\]\.?")


@click.command()
@click.option("--grant", required=True, metavar="ID", help="The account that sends.")
@click.option("--csv", "table", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The recipients: UTF-8, with a header; email is required, name and key are optional.")  # fmt: skip
@message_option("JSON with the fields of the message, like subject and body, or template; without to.")
@click.option("--delimiter", default=",", show_default=True, help="What separates the columns.")
@click.option("--skip-suppressed", is_flag=True, help="Leave suppressed recipients out instead of refusing the table.")
@click.option("--key", metavar="KEY", help="The batch's key: a repeated command with it changes nothing.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of all messages; repeatable.")
@click.option("--on-outcome", metavar="TARGET", help="Where to report when the last message has ended.")
@click.option(
    "--window",
    type=window,
    metavar="WINDOW",
    help="When they may be sent, like '09:00-17:30 mon-fri Europe/Berlin'; holidays may follow, with commas.",
)
@click.option("--spread", type=duration, metavar="DURATION",
              help="Spread the due times evenly over this long, like 4h; only time in which the window is open "
              "counts.")  # fmt: skip
@click.option(
    "--needs-approval", is_flag=True, help="Send nothing before the batch is approved: sendq approve --batch."
)
@click.option("--application", default="default", show_default=True, metavar="NAME", help="The grant's application.")
@dry_run_option("Show what would be refused, line by line, and change nothing.")
@json_option
def merge(
    grant: str,
    table: Path,
    message: str,
    delimiter: str,
    skip_suppressed: bool,
    key: str | None,
    tags: tuple[str, ...],
    on_outcome: str | None,
    window: Window | None,
    spread: timedelta | None,
    needs_approval: bool,
    application: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Mail one message to every row of a CSV file: all of them or none, as a batch.

    {{first_name}} in subject and body is replaced by the row's column of that name. Exit status 1 if something is
    refused: then nothing is enqueued.

    It does not know `senders=` or `suppressed=` of your application's queue. If you use those, call its `mail_merge`.

    --dry-run also looks for suppressed recipients if the ledger can be reached; without one it checks all the rest. It
    does not look for keys that were used before.
    """
    from sendq import InvalidJob, KeyConflict, NewBatch, Options
    from sendq.enqueueing.batch_sends import check_batch
    from sendq.enqueueing.merging import check_merge

    batch = NewBatch(
        key=key,
        tags=_tags(tags),
        on_outcome=on_outcome,
        application=application,
        window=window,
        spread=spread,
        needs_approval=needs_approval,
    )
    rows = Table(table, delimiter)
    try:
        common = _message(message)
        check_batch(batch)
        check_merge(common, Options())
        if dry_run:
            _try(grant, common, rows, batch, skip_suppressed=skip_suppressed, as_json=as_json)
            return
        with open_queue() as queue:
            made = queue.mail_merge(
                grant, common, rows.read(), batch=batch, suppressed=_SUPPRESSED[skip_suppressed]  # type: ignore[arg-type]  # refused rows too
            )  # fmt: skip
    except InvalidJob as wrong:
        _tell_problems(wrong.problems, rows)
        complain("nothing was enqueued")
        raise SystemExit(FAILED) from None
    except KeyConflict as conflict:
        complain(f"{on_command_line(str(conflict))}; nothing was enqueued")
        raise SystemExit(FAILED) from None
    _tell_made(made, needs_approval=needs_approval, as_json=as_json)


def _tell_made(made: Batch, *, needs_approval: bool, as_json: bool) -> None:
    if as_json:
        left_out = {} if made.existed else {"left_out": made.left_out}
        tell_json({"batch_id": made.id, "total": made.total, "existed": made.existed} | left_out)
        return
    tell(f"batch {made.id}: {counted(made.total or 0, 'message')}" + " (enqueued before)" * made.existed)
    if made.left_out:
        tell(f"{counted(made.left_out, 'suppressed recipient')} left out; see: sendq events --batch {made.id}")
    if needs_approval and not made.existed:
        tell(f"it waits for approval: sendq approve --batch {made.id}")
    tell(f"to watch it: sendq batch {made.id} --watch; to cancel it: sendq cancel --batch {made.id}")


_SUPPRESSED = {False: "refuse", True: "drop"}


def _try(grant: str, common: Message, rows: Table, batch: NewBatch, *, skip_suppressed: bool, as_json: bool) -> None:
    """Check everything against the ledger, or, if there is none, everything that needs none."""
    from sendq import LedgerUnavailable, Options, SchemaMismatch
    from sendq.clock import now
    from sendq.enqueueing.merging import merge_problems
    from sendq.views import MergeCheck

    unchecked = None
    try:
        with open_queue() as queue:
            found = queue.check_mail_merge(
                grant, common, rows.read(), batch=batch, suppressed=_SUPPRESSED[skip_suppressed],  # type: ignore[arg-type]
                problems_most=PROBLEMS_MOST,
            )  # fmt: skip
    except (LedgerUnavailable, SchemaMismatch) as error:
        settings, unchecked = load_settings(), str(error)
        number, problems = merge_problems(
            grant, common, rows.read(), options=Options(application=batch.application), now=now(),
            metadata_key=settings.metadata_key, unsubscribe_url=settings.unsubscribe_url, most=PROBLEMS_MOST,
            window=batch.window, spread=batch.spread,
        )  # fmt: skip
        found = MergeCheck(number, 0, problems)
    _tell_checked(found, rows, unchecked, as_json=as_json)


def _message(path: str) -> Message:
    """Raises ``SystemExit`` for a message that cannot be used."""
    from sendq import InvalidJob

    try:
        return read_message(path)
    except InvalidJob as wrong:
        tell_problems(path, wrong.problems)
        complain("nothing was enqueued")
        raise SystemExit(FAILED) from None


def _tags(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [tag.partition("=") for tag in given]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("has no =: write one like campaign=may", param_hint="--tag")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise click.BadParameter("names a key twice", param_hint="--tag")
    return {name: value for name, _, value in pairs} or None


class Table:
    """A table of recipients. ``lines``: the line on which each row of the last reading begins."""

    def __init__(self, path: Path, delimiter: str) -> None:
        if len(delimiter) != 1:
            raise click.BadParameter("is not one character", param_hint="--delimiter")
        self._path, self._delimiter = path, delimiter
        self.lines: array[int] = array("L")

    def read(self) -> Iterator[dict[str, str] | Refused]:
        """The rows, with the columns that have a meaning in lower case too."""
        from sendq.enqueueing.batch_sends import Refused
        from sendq.errors import Problem

        self.lines = array("L")
        ended = 0
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=self._delimiter, strict=True)
                columns = self._columns(next(reader, []))
                ended = reader.line_num
                for values in reader:
                    began, ended = ended + 1, reader.line_num
                    if not values:
                        continue
                    self.lines.append(began)
                    if len(values) == len(columns):
                        given = zip(columns, values, strict=True)
                        yield {name: value for column, value in given for name in {column, _known(column)}}
                    else:
                        reason = f"has {counted(len(values), 'value')} for {counted(len(columns), 'column')}"
                        yield Refused((Problem("row", reason, "put values with a delimiter in quotes"),))
        except UnicodeDecodeError:
            raise click.BadParameter("is not UTF-8; save it as such", param_hint="--csv") from None
        except csv.Error as error:
            says = f"line {ended + 1}: the row that begins here cannot be read ({error})"
            raise click.BadParameter(f"{says}; is a quote missing?", param_hint="--csv") from None

    def _columns(self, header: list[str]) -> list[str]:
        columns = [name.strip() for name in header]
        known = [_known(name) for name in columns]
        if "email" not in known:
            found = (option for one, option in DELIMITERS.items() if any(one in name for name in columns))
            hint = "".join(f"; is its delimiter another one, --delimiter {option}?" for option in islice(found, 1))
            raise click.BadParameter(f"has no column email in its first line{hint}", param_hint="--csv")
        if len(set(known)) < len(known):
            raise click.BadParameter("has two columns of one name", param_hint="--csv")
        return columns


def _known(column: str) -> str:
    """A column that has a meaning, however it is capitalised, by its name in a message; any other as it is."""
    return lower if (lower := column.lower()) in MEANT else column


def _said(problem: Problem, rows: Table) -> tuple[int | None, str]:
    """The line that a problem is on, and the problem without its position."""
    found = _position.match(problem.field)
    reason = re.sub(r"of \[(\d+)\]$", lambda other: f"of line {rows.lines[int(other[1])]}", problem.reason)
    text = f"{_position.sub('', problem.field)} {reason}; {problem.remedy}".strip()
    return (rows.lines[int(found[1])] if found else None), on_command_line(text)


def _tell_problems(problems: Sequence[Problem], rows: Table) -> None:
    for line, text in (_said(problem, rows) for problem in problems):
        complain(text if line is None else f"line {line}: {text}")


def _tell_checked(found: MergeCheck, rows: Table, unchecked: str | None, *, as_json: bool) -> None:
    """``unchecked``: why the suppression list was not looked at."""
    if as_json:
        said = [dict(zip(("line", "problem"), _said(problem, rows), strict=True)) for problem in found.problems]
        counts = {"rows": found.rows, "left_out": found.left_out, "suppressed_checked": unchecked is None}
        tell_json({"dry_run": True, **counts, "problems": said})
    else:
        _tell_problems(found.problems, rows)
        bad = len({place[1] for problem in found.problems if (place := _position.match(problem.field))})
        left_out = f"{found.left_out:,} would be left out, " if found.left_out else ""
        tell(f"{counted(found.rows, 'row')}, {left_out}{bad:,} would be refused; nothing was changed")
    if unchecked is not None:
        complain(f"whether recipients are suppressed was not checked: {unchecked}")
    if not found.rows:
        complain("the table has no rows, and would be refused")
    if found.problems or not found.rows:
        raise SystemExit(FAILED)
