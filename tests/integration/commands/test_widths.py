"""Lists on terminals of 80 and 120 columns, with grants as Nylas names them: no state is lost, and no id is cut."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from uuid import UUID

import pytest
from rich.console import Console

from sendq import clock
from sendq.clock import SECOND
from sendq.ledger.db import schema
from sendq.operators import Operators
from tests.support.commands import Cli
from tests.support.ledger import Ledger
from worker.cli import top
from worker.cli.output import Column, tell_table

GRANTS = [str(UUID(int=0x3B9C << 100 | number)) for number in range(3)]


class Terminal(io.StringIO):
    """What a command writes to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], str]]:
    """Standard output is a terminal of a width; the result returns what was written."""

    def of(width: int) -> Callable[[], str]:
        written = Terminal()
        monkeypatch.setattr("sys.stdout", written)
        monkeypatch.setenv("COLUMNS", str(width))
        return lambda: re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())

    return of


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    """Held and closed grants, jobs in several states, a dead letter, an event."""
    now = ledger.clock.at = clock.now()
    for number, grant in enumerate(GRANTS):
        job = ledger.send(grant, provider="ews", key=f"invoice-{number}")
        ledger.absorb()
        if number == 2:
            ledger.set_lane(grant, closed_at=now, closed_rule="grant_expired")
            ledger.set_job(job, state="dead", rule="mailbox_not_enabled", finished_at=now)
        else:
            ledger.set_lane(
                grant, held_until=now + 3_600 * SECOND, held_since=now, held_rule="exchange_throttled", held_by="policy"
            )
    return ledger


@pytest.mark.parametrize("width", [80, 120])
class TestALine:
    @pytest.mark.parametrize(
        ("command", "shown"),
        [
            (["jobs"], [*GRANTS, "queued", "dead"]),
            (["grants"], [*GRANTS, "held", "closed", "exchange_throttled"]),
            (["dead", "--rule", "mailbox_not_enabled"], [GRANTS[2]]),
            (["events"], [GRANTS[0], "hold"]),
            (["status"], ["held", "exchange_throttled", "closed"]),
        ],
        ids=lambda value: value[0],
    )
    def test_fits_and_has_the_state_and_whole_ids(
        self,
        cli: Cli,
        ledger: Ledger,
        terminal: Callable[[int], Callable[[], str]],
        width: int,
        command: list[str],
        shown: list[str],
    ) -> None:
        cli("hold", "--grant", GRANTS[0], "--for", "9h", "--reason", "their server moves " * 4, "--by", "anna")
        jobs = [str(row.id) for row in ledger.rows(schema.job)]
        written = terminal(width)
        cli(*command)
        out = written()
        rows = out.split("\n\nmailbox_not_enabled: ")[0]  # what a rule says is prose, which the terminal folds
        assert max(map(len, rows.splitlines())) <= width
        assert [word for word in shown if word not in out] == []
        assert [word for word in (jobs if command == ["jobs"] else []) if word not in out] == []
        assert "…" not in out


class TestATable:
    COLUMNS = ("job", "state", Column("rule"), Column("key", extra=True), Column("answer", folds=True))
    ROW = ("0192f0c1-2f3e-7c4d-9a5b-0123456789ab", "queued", "exchange_throttled", "invoice-7", "some words " * 9)

    def test_leaves_out_what_is_extra_and_says_so(self, terminal: Callable[[int], Callable[[], str]]) -> None:
        written = terminal(92)
        tell_table(self.COLUMNS, [self.ROW])
        out = written()
        assert out.splitlines()[-1] == "not shown at this width: key"
        assert "some words some words" in out

    @pytest.mark.parametrize(("values", "shown"), [(("", None), False), (("", "invoice-8"), True), ((0, ""), True)])
    def test_leaves_out_what_is_extra_and_empty_in_every_row(
        self, capsys: pytest.CaptureFixture[str], values: tuple[object, ...], shown: bool
    ) -> None:
        columns = ("job", Column("key", extra=True), "answer")
        tell_table(columns, [("1", value, "") for value in values])
        heading, *_ = capsys.readouterr().out.splitlines()
        assert heading.split() == ["job", *["key"] * shown, "answer"]

    def test_does_not_name_an_empty_column_as_left_out(self, terminal: Callable[[int], Callable[[], str]]) -> None:
        written = terminal(92)
        tell_table(self.COLUMNS, [(*self.ROW[:3], None, self.ROW[4])])
        assert "not shown" not in written()

    def test_becomes_blocks_where_it_is_too_narrow(self, terminal: Callable[[int], Callable[[], str]]) -> None:
        written = terminal(60)
        tell_table(self.COLUMNS, [self.ROW, self.ROW])
        first, second, *others = written().splitlines()
        assert first == self.ROW[0]
        assert second == "  state: queued  rule: exchange_throttled  key: invoice-7"
        assert others[0].startswith("  answer: some words")
        assert others.count("") == 1

    def test_is_whole_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        tell_table(self.COLUMNS, [self.ROW])
        assert "invoice-7" in capsys.readouterr().out


class TestTop:
    @pytest.mark.parametrize("width", [80, 120])
    def test_shows_what_is_held_by_rule_in_the_lines_that_there_are(self, ledger: Ledger, width: int) -> None:
        console = Console(width=width, height=24, record=True, file=io.StringIO())
        console.print(top.page(Operators(ledger.engine).status(), width=width, height=24))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        assert any(line.startswith("exchange_throttled") and " held " in line for line in lines)
        assert any("oldest job that nothing holds" in line for line in lines)

    def test_needs_a_terminal(self, cli: Cli) -> None:
        status, _, err = cli("top")
        assert (status, "sendq status --watch" in err) == (2, True)
