"""What would happen: explain one answer, or print the table that decides."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import FAILED, UNUSABLE, clean, complain, json_option, tell, tell_json, tell_table

if TYPE_CHECKING:
    from tasks.policy.row import Policy, Row
    from tasks.policy.words import Said

# Spelled out, so that --help needs no imports; a test holds them to the policy's own.
PROVIDERS = ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "unknown")
OPERATIONS = ("send", "modify")

_file_option = click.option(
    "--file",
    "policy_file",
    envvar="SENDQ_POLICY_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rows of your own that come before the table's (default: $SENDQ_POLICY_FILE).",
)


@click.command()
@click.option("--status", "http_status", help="The HTTP status; leave it away for: no answer.")
@click.option("--provider", type=click.Choice(PROVIDERS), default="unknown", show_default=True)
@click.option("--operation", type=click.Choice(OPERATIONS), default="send", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the answer; repeatable.")
@click.option("--body", metavar="TEXT|-", default="", help="The body of the answer; - reads it from stdin.")
@click.option("--batch", is_flag=True, help="Read JSON lines (id, status, provider, operation, headers, body) from "
              "stdin, and write JSON lines with the id added.")  # fmt: skip
@_file_option
@json_option
def explain(
    http_status: str | None,
    provider: str,
    operation: str,
    headers: tuple[str, ...],
    body: str,
    batch: bool,
    policy_file: Path | None,
    as_json: bool,
) -> None:
    """What happens to a job that meets this answer of the API on its first attempt. It always has an answer."""
    from tasks.policy import explain as explaining

    policy = _policy(policy_file)
    if batch:
        for line in explaining.explain_lines(sys.stdin.buffer, now=time.time(), policy=policy):
            print(line, flush=True)  # at once: whoever writes a line and waits for its answer must get it
        return
    answer = explaining.explain(
        status=http_status,
        provider=provider,
        operation=operation,
        headers=list(headers),
        body=sys.stdin.buffer.read() if body == "-" else os.fsencode(body),
        now=time.time(),
        policy=policy,
    )
    if as_json:
        tell_json(answer)
        return
    if http_status is not None and not http_status.strip().isdecimal():
        said = clean(http_status)
        complain(f"{said!r} is no HTTP status, and explained as no answer at all; give a number, like 429")
    _tell_explanation(answer)


def _tell_explanation(answer: dict[str, Any]) -> None:
    documented = "" if answer["documented"] else " (not documented)"
    route = (answer["route"] or "done").replace("_", " ")
    tell(f"{answer['title']}{documented}: {route}, concerning the {answer['scope']}")
    if answer["delay_s"]:
        low, high = answer["delay_s"]
        tell(f"waits:      {low:g} s" + (f" to {high:g} s" if high != low else ""))
    for name, label in (
        ("sent", "gone out?"),
        ("why", "why:"),
        ("remedy", "remedy:"),
        ("rule", "rule:"),
        ("doc", "see:"),
    ):
        tell(f"{label:<12}{answer[name]}")


@click.group(invoke_without_command=True)
@click.option("--markdown", is_flag=True, help="Print it as the documentation has it.")
@_file_option
@json_option
@click.pass_context
def policy(context: click.Context, markdown: bool, policy_file: Path | None, as_json: bool) -> None:
    """The table that decides what happens after each failure: the first row that fits wins."""
    if context.invoked_subcommand is not None:
        return
    from tasks.policy.explain import policy_table_markdown

    table = _policy(policy_file)
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

    findings = check_policy(_text_of(file))
    if as_json:
        tell_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            tell(str(finding))
        if not findings:
            tell("nothing to say against it")
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(FAILED)


def words_of_rules() -> dict[str, Said]:
    """What every rule says, rows of one's own among them; a file of these that cannot be used is complained of."""
    from tasks.policy.policy_file import PolicyFileError, policy_with
    from tasks.policy.table import POLICY
    from tasks.policy.words import words_of
    from worker.cli.door import load_settings

    file = load_settings().policy_file
    if file is None:
        return words_of(POLICY)
    try:
        return words_of(policy_with(file.read_text(encoding="utf-8")))
    except (PolicyFileError, OSError, UnicodeDecodeError):
        complain("SENDQ_POLICY_FILE cannot be used, so its rows have no words here; see: sendq policy")
        return words_of(POLICY)


def unknown_rule(rule: str) -> str | None:
    """What to say of a rule that nobody knows; None: it is known."""
    import difflib

    words = words_of_rules()
    if rule in words:
        return None
    alike = difflib.get_close_matches(rule, words, 1)
    return f"there is no rule {rule!r}; " + (f"is it {alike[0]}? " if alike else "") + "sendq policy lists them"


def _row_cells(row: Row) -> tuple[str, ...]:
    statuses = ", ".join(map(str, row.status)) or "any"
    return row.id, statuses, row.title, row.route.value.replace("_", " "), row.scope.value, row.sent.value


def _row_json(row: Row) -> dict[str, Any]:
    import dataclasses

    values = dataclasses.asdict(row)
    wait = values["wait"]
    if wait is not None and callable(wait["default"]):
        wait["default"] = "until midnight Pacific"
    return values


def _policy(file: Path | None) -> Policy:
    from tasks.policy.table import POLICY

    if file is None:
        return POLICY
    from tasks.policy.policy_file import PolicyFileError, policy_with

    try:
        return policy_with(_text_of(file))
    except PolicyFileError as error:
        complain(str(error))
        raise SystemExit(UNUSABLE) from None


def _text_of(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        complain(f"the policy file cannot be read ({reason}); check its path")
        raise SystemExit(UNUSABLE) from None


COMMANDS = (explain, policy)
