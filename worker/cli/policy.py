"""``sendq policy``: the error policy as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import FAILED, UNUSABLE, complain, json_option, tell, tell_json, tell_lines, tell_table
from worker.cli.policy_file import file_option, policy_of, text_of

if TYPE_CHECKING:
    from tasks.policy.row import Row


# Of a checkout; where there is none a file must be named.
GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "golden_errors.json"


@click.group(invoke_without_command=True)
@click.option("--markdown", is_flag=True, help="Print it as Markdown, as in the documentation.")
@file_option
@json_option
@click.pass_context
def policy(context: click.Context, markdown: bool, policy_file: Path | None, as_json: bool) -> None:
    """Show the error policy: what happens after each failure. The first row that matches decides."""
    if context.invoked_subcommand is not None:
        return
    from tasks.policy.explain import policy_table_markdown

    table = policy_of(policy_file)
    if markdown:
        tell_lines(policy_table_markdown(table))
    elif as_json:
        tell_json([_row_json(row) for row in table.rows])
    else:
        columns = ("rule", "status", "title", "route", "scope", "gone out?")
        tell_table(columns, [_row_cells(row) for row in table.rows])


@policy.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check_file(file: Path, as_json: bool) -> None:
    """Check a policy FILE line by line. Exit status 1 if it cannot be used."""
    import dataclasses

    from tasks.policy.policy_file import check_policy

    findings = check_policy(text_of(file))
    if as_json:
        tell_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            tell(str(finding))
        if not findings:
            tell("no problems found")
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(FAILED)


@policy.command("lint")
@click.argument("cases", type=click.Path(dir_okay=False, path_type=Path), default=GOLDEN)
@file_option
@json_option
def lint_table(cases: Path, policy_file: Path | None, as_json: bool) -> None:
    """Show which rules compete for a text, and which no test case reaches.

    CASES is a JSON file with a list `cases` (default: the test cases of the checkout). Exit status 1 if a rule is never
    reached, or if a text of a rule always meets an earlier rule.
    """
    import dataclasses

    from tasks.policy.lint import Kind, lint

    remarks = lint(policy_of(policy_file), _cases(cases))
    if as_json:
        tell_json([dataclasses.asdict(remark) for remark in remarks])
    elif remarks:
        tell_table(("rule", "finding", "what"), [(remark.row, remark.kind, remark.says) for remark in remarks])
    else:
        tell("no problems found")
    if any(remark.kind is not Kind.BOTH for remark in remarks):
        raise SystemExit(FAILED)


def _cases(file: Path) -> list[dict[str, Any]]:
    import json

    try:
        document = json.loads(file.expanduser().read_text(encoding="utf-8"))
        cases = document["cases"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON with a list of cases"
        complain(f"the test cases cannot be read from {str(file)!r} ({reason}); name a file with cases")
        raise SystemExit(UNUSABLE) from None
    return [case for case in cases if isinstance(case, dict)] if isinstance(cases, list) else []


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
