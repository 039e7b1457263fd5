"""``sendq explain``: what happens after one answer of the API."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import clean, complain, json_option, tell, tell_json
from worker.cli.params import PROVIDERS
from worker.cli.policy_file import file_option, policy_of

if TYPE_CHECKING:
    pass


OPERATIONS = ("send", "modify")


@click.command()
@click.option("--status", "http_status", help="The HTTP status; without it: the API did not answer.")
@click.option("--provider", type=click.Choice(PROVIDERS), default="unknown", show_default=True)
@click.option("--operation", type=click.Choice(OPERATIONS), default="send", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A response header; repeatable.")
@click.option("--body", metavar="TEXT|-", default="", help="The response body; - reads it from stdin.")
@click.option("--batch", is_flag=True, help="Read JSON lines (id, status, provider, operation, headers, body) from "
              "stdin, and write JSON lines with the same ids.")  # fmt: skip
@file_option
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
    """Show what happens to a job whose first attempt gets this answer from the API. Any input is explained."""
    from tasks.policy import explain as explaining

    policy = policy_of(policy_file)
    if batch:
        for line in explaining.explain_lines(sys.stdin.buffer, now=time.time(), policy=policy):
            print(line, flush=True)  # flushed: the writer of a line may wait for its answer
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
        complain(f"{said!r} is not an HTTP status, so this explains a call with no answer; give a number, like 429")
    _tell_explanation(answer)


def _tell_explanation(answer: dict[str, Any]) -> None:
    documented = "" if answer["documented"] else " (not documented)"
    route = (answer["route"] or "done").replace("_", " ")
    tell(f"{answer['title']}{documented}: {route} (scope: {answer['scope']})")
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
