"""``sendq policy``: the error policy as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import FAILED, json_option, tell, tell_json, tell_table
from worker.cli.policy_file import file_option, policy_of, text_of

if TYPE_CHECKING:
    from tasks.policy.row import Row


@click.group(invoke_without_command=True)
@click.option("--markdown", is_flag=True, help="Print it as the documentation has it.")
@file_option
@json_option
@click.pass_context
def policy(context: click.Context, markdown: bool, policy_file: Path | None, as_json: bool) -> None:
    """The table that decides what happens after each failure: the first row that fits wins."""
    if context.invoked_subcommand is not None:
        return
    from tasks.policy.explain import policy_table_markdown

    table = policy_of(policy_file)
    if markdown:
        tell(policy_table_markdown(table).rstrip("\n"))
    elif as_json:
        tell_json([_row_json(row) for row in table.rows])
    else:
        columns = ("rule", "status", "title", "route", "scope", "gone out?")
        tell_table(columns, [_row_cells(row) for row in table.rows])


@policy.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check_file(file: Path, as_json: bool) -> None:
    """Look through a FILE of rows of your own, line by line. Exit status 1 if it cannot be used."""
    import dataclasses

    from tasks.policy.policy_file import check_policy

    findings = check_policy(text_of(file))
    if as_json:
        tell_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            tell(str(finding))
        if not findings:
            tell("nothing to say against it")
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(FAILED)


def _row_cells(row: Row) -> tuple[str, ...]:
    statuses = ", ".join(map(str, row.status)) or "any"
    return row.id, statuses, row.title, str(row.route).replace("_", " "), row.scope.value, row.sent.value


def _row_json(row: Row) -> dict[str, Any]:
    import dataclasses

    values = dataclasses.asdict(row)
    wait = values["wait"]
    if wait is not None and callable(wait["default"]):
        wait["default"] = "until midnight Pacific"
    return values
