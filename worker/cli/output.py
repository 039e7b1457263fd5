"""Output of commands: JSON or tables on stdout, messages on stderr."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

FAILED = 1
UNUSABLE = 2

F = TypeVar("F", bound=Callable[..., Any])

# Wide enough for any line: without a terminal, a table is not folded.
NO_TERMINAL_WIDTH = 1000

# Long text is folded to no less than this: narrower columns are not read.
FOLDED = 24


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


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. ``folds``: long text, which may go on in further lines; ``extra``: left out of a table that
    would be too wide with it, or in which it would be empty.
    """

    name: str
    folds: bool = False
    extra: bool = False


def tell_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]], *, folds: bool = False) -> None:
    """Rows under headings; a cell may be a list of lines. Only long text is folded, and nothing is cut.

    Columns that are ``extra`` are left out if no row has a value. Where the terminal is too narrow, the others are left
    out too, from the last to the first, and a line names them; where it is too narrow even so, each row becomes a block
    of lines, with all its columns. ``folds``: all columns but the first are long text.
    """
    every = [one if isinstance(one, Column) else Column(one, folds and bool(at)) for at, one in enumerate(columns)]
    cells = [[clean(cell) for cell in row] for row in rows]
    least = [_least_width(column, [row[at] for row in cells]) for at, column in enumerate(every)]
    shown = [at for at, column in enumerate(every) if not column.extra or any(row[at] for row in cells)]
    extra = [at for at in shown if every[at].extra]
    while extra and _width_of([least[at] for at in shown]) > output_width():
        shown.remove(extra.pop())
    if _width_of([least[at] for at in shown]) > output_width():
        _tell_blocks(every, cells)
        return
    _tell_grid([(every[at], least[at]) for at in shown], [[row[at] for at in shown] for row in cells])
    left_out = [every[at].name for at in range(len(every)) if at not in shown and any(row[at] for row in cells)]
    if left_out:
        _print(f"not shown at this width: {', '.join(left_out)}")


def output_width() -> int:
    """The width of the terminal in characters; without one, wide enough for any line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else NO_TERMINAL_WIDTH


def _least_width(column: Column, cells: Sequence[str]) -> int:
    """The characters that a column needs. Long text is folded to `FOLDED`, but never within a word: it may be an id."""
    texts = [column.name, *(line for cell in cells for line in cell.splitlines())]
    widest = max(map(len, texts))
    if not column.folds:
        return widest
    return min(widest, max(FOLDED, *(len(word) for text in texts for word in text.split() or [""])))


def _width_of(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _tell_grid(columns: Sequence[tuple[Column, int]], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    # Not straight to stdout: when a reader leaves, rich would end the process in its own way.
    written = io.StringIO()
    console = Console(
        file=written, markup=False, emoji=False, highlight=False, force_terminal=terminal, width=output_width()
    )
    # Two spaces between columns, of which a terminal's box brings one: there is no room to give away at 80 columns.
    looks = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)} if terminal else {"box": None}
    table = Table(pad_edge=False, show_edge=False, **looks)
    for column, least in columns:
        table.add_column(column.name, overflow="fold", no_wrap=not column.folds, min_width=least)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in written.getvalue().splitlines():
        _print(line.rstrip())


def _tell_blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A block for each row: the first cell on a line by itself, then the others with their names, as many as fit."""
    width = output_width()
    for number, row in enumerate(rows):
        if number:
            _print("")
        _print(row[0].replace("\n", " "))
        line = ""
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            item = f"{column.name}: {cell}".lstrip(": ").replace("\n", " ")
            if line and len(line) + 2 + len(item) > width:
                _print(line)
                line = ""
            line = f"{line}  {item}"
            if len(line) > width:
                *full, line = textwrap.wrap(
                    item, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
                )
                for part in full:
                    _print(part)
        if line:
            _print(line)


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
