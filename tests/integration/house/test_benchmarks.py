"""The benchmarks that need servers, from one end to the other with numbers that say nothing."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from benchmarks import accounting, bulk, clients, latency, leader, merge, scale, storage, undo, writers
from benchmarks.accounting import parse, rows_of


def verdicts(report: str) -> list[str]:
    """Whether each bar was met, as the report has it."""
    return re.findall(r"\| (yes|\*\*no\*\*) \|$", report.partition("\n## Bars")[2].partition("\n## ")[0], re.MULTILINE)


@pytest.mark.long
class TestLatency:
    def test_reports_waits_and_idleness_and_a_profile_for_what_misses_its_bar(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latency, "PROFILED_S", 1.0)
        monkeypatch.setattr(latency, "SETTLED_S", 0.3)
        monkeypatch.setattr(latency, "LOGGED_JOBS", 2)
        monkeypatch.setattr(latency, "P50_MS", {"postgresql": 0.0, "sqlite": 0.0})
        monkeypatch.setattr(latency, "IDLE_PERCENT", 1e6)
        options = ["--jobs", "3", "--idle-s", "1", "--ledgers", "postgresql,sqlite", "--report", str(tmp_path)]
        with tempfile.TemporaryDirectory() as at:
            Path(at).chmod(0o755)  # PostgreSQL may run as another user
            assert latency.main([*options, "--at", at]) == 1
        report = (tmp_path / "latency.md").read_text()
        assert verdicts(report)[0] == "**no**"
        assert verdicts(report)[2] == "yes"
        assert "## postgresql: profile of waits" in report
        assert "## sqlite: profile of waits" in report
        assert re.search(r"\| 1\.0 \| [\d.]+ \| [^|]*INSERT INTO sendq_job ", report)  # once for each job
        assert "| sendq-dispatcher |" in report
        assert "profile of idleness" not in report
        assert "## sqlite" in report


@pytest.mark.long
class TestUndo:
    def test_finds_every_message_as_before_but_those_that_were_touched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(undo, "EACH", 20)
        assert undo.main(["--messages", "60", "--report", str(tmp_path)]) == 0
        report = (tmp_path / "undo.md").read_text()
        assert "| left_alone | {'changed_since': 3, 'gone_since': 3} |" in report
        assert "| messages_not_as_they_should_be | 0 |" in report


@pytest.mark.long
class TestMerge:
    def test_reports_every_call_on_both_databases(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(merge, "MOST_CPU_S", 0.0)
        options = ["--recipients", "60", "--messages", "50", "--sends", "3", "--report", str(tmp_path)]
        assert merge.main(options) == 1
        report = (tmp_path / "merge.md").read_text()
        for call in ("fields", "keys", "equal", "template", "send_many", "send"):
            assert f"| {call} | SQLite |" in report
            assert f"| {call} | PostgreSQL |" in report
        assert re.search(r"\| equal \| SQLite \| .* \| 1 \|\n", report)  # the body is stored once


@pytest.mark.long
class TestScale:
    def test_reports_every_part_and_why_a_bar_is_missed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accounting, "PAGES_TOLD_S", 0.1)
        monkeypatch.setattr(scale, "PROFILED_S", 1.0)
        monkeypatch.setattr(scale, "WORKERS_LANES", 20)
        monkeypatch.setattr(writers, "WRITERS", 3)
        monkeypatch.setattr(scale, "MOST_TIMES", 0.0)
        options = ["--sizes", "200,600", "--jobs", "50", "--rounds", "1", "--seconds", "1", "--finished", "600"]
        assert scale.main([*options, "--report", str(tmp_path)]) == 1
        report = (tmp_path / "scale.md").read_text()
        assert verdicts(report)[0] == "**no**"
        for heading in ("sizes", "workers", "retention", "writers", "Plans", "Profile of the worker"):
            assert f"\n## {heading}\n" in report
        assert "(actual time=" in report  # of a plan
        assert "(no plan" not in report


@pytest.mark.long
class TestLeader:
    def test_reports_what_a_turn_costs_with_each_load(self, tmp_path: Path) -> None:
        assert leader.main(["--lanes", "2000", "--seconds", "1", "--report", str(tmp_path)]) == 0
        report = (tmp_path / "leader.md").read_text()
        loads = re.findall(r"^\| (backlog|lone jobs) \| 2,000 \| [\d,]+ \| ([\d.]+) \| [\d.]+ \|", report, re.MULTILINE)
        assert [load for load, _ in loads] == ["backlog", "lone jobs", "lone jobs"]
        assert [float(turns) for _, turns in loads[1:]] == [leader.FEW, leader.MANY]


@pytest.mark.long
class TestStorage:
    def test_reports_what_a_job_writes_and_what_grew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "MOST_TIMES", 0.0)
        assert storage.main(["--minutes", "0.2", "--rate", "20", "--lanes", "5", "--report", str(tmp_path)]) == 1
        report = (tmp_path / "storage.md").read_text()
        assert verdicts(report) == ["**no**", "**no**"]
        ((entries, versions),) = re.findall(
            r"^\| \d+ \| [\d.]+ \| \d+ \| ([\d.]+) \| ([\d.]+) \|$", report, re.MULTILINE
        )
        assert float(entries) > float(versions) > 1
        assert re.search(r"^\| sendq_job \| [\d.]+ \| [\d.]+ \| 0\.0 \|", report, re.MULTILINE)  # never HOT
        assert re.search(r"^\| sendq_job_waiting_idx \| \d+ \| \d+ \| [1-9]\d* \|$", report, re.MULTILINE)


@pytest.mark.long
class TestClients:
    def test_reports_that_a_cancelled_call_of_ours_writes_nothing(self, tmp_path: Path) -> None:
        """Only ours and aiohttp's for certain: the others are in the environment of the compared queues."""
        assert clients.main(["--rounds", "1", "--calls", "40", "--in-flight", "10", "--report", str(tmp_path)]) == 0
        report = (tmp_path / "clients.md").read_text()
        for name in ("aiohttp", "sendq"):
            assert re.search(rf"^\| {name} \| 0\.\d+ .* \| writes nothing \|$", report, re.MULTILINE)
        for name in ("pyreqwest", "httpx"):
            assert f"\n| {name} |" in report or f"- **{name}**: " in report

    def test_are_asked_for_enough_calls_to_measure(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit):
            clients.main(["--calls", "30", "--in-flight", "10", "--report", str(tmp_path)])
        assert list(tmp_path.iterdir()) == []


class TestBulk:
    def test_reports_what_the_call_took_and_that_all_of_it_was_cancelled(self, tmp_path: Path) -> None:
        assert bulk.main(["--jobs", "2000", "--report", str(tmp_path)]) == 0
        report = (tmp_path / "bulk.md").read_text()
        assert re.search(r"\| enqueue_cpu_ms_per_job \| 0\.\d+ \|", report)
        assert "| cancel_counts | {'cancelled': 2000} |" in report


class TestStatementsOfALog:
    LOG = """\
2026-11-23 05:29:30.123 UTC [41] LOG:  duration: 0.500 ms  parse <unnamed>: SELECT a
\tFROM t WHERE id IN ($1::UUID, $2::UUID)
2026-11-23 05:29:30.123 UTC [41] LOG:  duration: 1.500 ms  bind <unnamed>: SELECT a
\tFROM t WHERE id IN ($1::UUID, $2::UUID)
2026-11-23 05:29:30.123 UTC [41] DETAIL:  Parameters: $1 = 'x', $2 = 'it''s'
2026-11-23 05:29:30.124 UTC [41] LOG:  duration: 2.000 ms  execute <unnamed>: SELECT a
\tFROM t WHERE id IN ($1::UUID, $2::UUID)
2026-11-23 05:29:30.124 UTC [42] LOG:  duration: 0.100 ms  statement: COMMIT
2026-11-23 05:29:30.124 UTC [41] DETAIL:  Parameters: $1 = 'x', $2 = 'it''s'
2026-11-23 05:29:30.125 UTC [41] LOG:  duration: 1.000 ms  execute <unnamed>: SELECT a
\tFROM t WHERE id IN ($1::UUID)
2026-11-23 05:29:30.125 UTC [41] DETAIL:  Parameters: $1 = 'y'
"""

    def test_are_added_up_however_many_values_they_name(self) -> None:
        kinds = {one.text: one for one in parse(self.LOG)}
        select = kinds["SELECT a FROM t WHERE id IN ($::UUID …)"]
        assert (select.calls, select.ms, select.slowest_ms) == (1, 4.0, 2.0)
        assert select.parameters == "$1 = 'x', $2 = 'it''s'"
        assert kinds["SELECT a FROM t WHERE id IN ($::UUID)"].ms == 1.0
        assert kinds["COMMIT"].calls == 1

    def test_are_shown_by_job(self) -> None:
        first, *_ = rows_of(parse(self.LOG), jobs=10)
        assert (first["ms per job"], first["calls per job"]) == (0.4, 0.1)
