"""Reading the JSON of a message from a file or from stdin, and reporting what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.output import complain
from worker.cli.wording import on_command_line

if TYPE_CHECKING:
    from sendq import Message
    from sendq.errors import Problem

F = TypeVar("F", bound=Callable[..., Any])

STDIN = "FILE may be `-` (standard input)."


def message_option(help_: str) -> Callable[[F], F]:
    """``--message FILE``; ``help_``: what the file has."""
    kind = click.Path(exists=True, dir_okay=False, allow_dash=True)
    return click.option("--message", required=True, type=kind, metavar="FILE", help=f"{help_} {STDIN}")


def read_message(path: str) -> Message:
    """The message in a file; ``-``: on stdin. Raises `InvalidJob`."""
    from sendq.messages.from_json import message_from_json

    with click.open_file(path, "rb") as file:
        return message_from_json(file.read())


def tell_problems(path: str, problems: Sequence[Problem]) -> None:
    """What is wrong with a message, with the name of its file, which may be another one than a person thinks."""
    name = "stdin" if path == "-" else path
    for problem in problems:
        complain(on_command_line(f"{name}: {f'{problem.field} {problem.reason}'.strip()}; {problem.remedy}"))
