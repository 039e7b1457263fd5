"""Output of commands: JSON or tables on stdout, messages on stderr."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

FAILED = 1
UNUSABLE = 2

F = TypeVar("F", bound=Callable[..., Any])

# Wide enough for any line: without a terminal, a table is not folded.
NO_TERMINAL_WIDTH = 1000


def json_option(command: F) -> F:
    """``--json``, as every reading command has it."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def complain(sentence: str) -> None:
    """A message on stderr."""
    for line in sentence.splitlines():
        print(f"sendq: {clean(line)}", file=sys.stderr)


def tell(line: str = "") -> None:
    """A line of output on stdout. A name in it with a line break makes no second line."""
    _print(clean(line))


def tell_lines(text: str) -> None:
    """Several lines, of our own text only."""
    for line in text.splitlines():
        tell(line)


def _print(line: str) -> None:
    print(line, flush=True)  # flushed: a reader may watch through a pipe


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """How far a command is, in one line that is written over again and again; nothing where no terminal shows it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def show(line: str) -> None:
        print(f"\r\x1b[K{clean(line)}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 job``, ``2,000 jobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clear_screen() -> None:
    """Begin at the top again, where there is a screen."""
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")


def tell_json(value: Any) -> None:
    """The output as JSON: in one line, or indented on a terminal."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def tell_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, folds: bool = False) -> None:
    """Rows under headings; a cell may be a list of lines. The first column is never cut: it names the row.

    ``folds``: the others are folded to the terminal's width instead of being cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    # Not straight to stdout: when a reader leaves, rich would end the process in its own way.
    written = io.StringIO()
    console = Console(
        file=written, markup=False, emoji=False, highlight=False, force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal else NO_TERMINAL_WIDTH,
    )  # fmt: skip
    # Two spaces between columns, of which a terminal's box brings one: there is no room to give away at 80 columns.
    looks = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)} if terminal else {"box": None}
    table = Table(pad_edge=False, show_edge=False, **looks)
    cells = [[clean(cell) for cell in row] for row in rows]
    for position, column in enumerate(columns):
        widest = max((len(line) for row in cells for line in row[0].splitlines()), default=0)
        table.add_column(
            column,
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
            min_width=widest if position == 0 else None,
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)
    for line in written.getvalue().splitlines():
        _print(line.rstrip())


def clean(value: object) -> str:
    """Text that cannot speak to the terminal or forge a line: what cannot be seen becomes question marks.

    Of a list, each item is a line.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, list):
        return "\n".join(map(clean, value))
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def when(at: datetime) -> str:
    """A time for people: to the second, UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
