"""What is made of the figures of ``./dev bench peers``, and how samples of a worker become shares."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import readme
from benchmarks.layers import OTHER, add_up, layer_of
from benchmarks.memory import REST, SHOWN, STANDARD, library_of, shown
from benchmarks.peers_report import NO_QUEUE, bars, markdown

GOOD = {
    "jobs_per_s": 1_500, "worker_cpu_ms": 0.5, "servers_cpu_ms": 0.2, "producer_cpu_ms": 0.05, "api_cpu_ms": 0.05,
    "peak_memory_mb": 120, "p50_ms": 8.0, "p99_ms": 40.0, "worker_busy": 0.9, "others_busy": 0.5,
}  # fmt: skip


def results(**runs: list[dict[str, Any]]) -> dict[str, Any]:
    queues = {name: {"written": "well", "versions": "1.0", "runs": each} for name, each in runs.items()}
    load = {"jobs": 9, "lanes": 3, "in_flight": 5, "latency_s": 0.2, "gentle_jobs": 4, "per_second": 50.0}
    return {
        "command": "./dev bench peers", "rounds": 3, "load": load, "machine": {"machine": "2 x some"}, "fsync_ms": 0.1,
        "queues": queues, "not_run": {"arq": "not\ninstalled"}, "profile": "no py-spy",
        "memory": {"celery": 40.25, "all others": 20.0},
    }  # fmt: skip


def met(found: dict[str, Any]) -> set[str]:
    return {bar["what"] for bar in bars(found) if bar["met"]}


class TestTheBars:
    def test_are_met_by_the_median_of_all_rounds(self) -> None:
        slow = GOOD | {"producer_cpu_ms": 9.0}
        assert len(met(results(sendq=[GOOD, slow, GOOD]))) == len(bars(results(sendq=[GOOD])))
        assert "the producer's CPU per job, in bulk" not in met(results(sendq=[slow, GOOD, slow]))

    @pytest.mark.parametrize("key", ["producer_cpu_ms", "p50_ms", "p99_ms", "peak_memory_mb"])
    def test_are_missed_by_one_figure_that_is_too_high(self, key: str) -> None:
        assert len(met(results(sendq=[GOOD]))) - len(met(results(sendq=[GOOD | {key: 1_000.0}]))) == 1

    def test_of_speed_are_the_quickest_queue_and_nearly_all_of_a_client_without_one(self) -> None:
        queue, alone = "3 a lane: more jobs/s than any other queue", "3 a lane: jobs/s of a client alone"
        for theirs, without, both in ((1_499, 1_578, {queue, alone}), (1_501, 1_578, {alone}), (1_499, 1_580, {queue})):
            others = {"BullMQ": [GOOD | {"jobs_per_s": theirs}], NO_QUEUE: [GOOD | {"jobs_per_s": without}]}
            assert met(results(sendq=[GOOD], **others)) & {queue, alone} == both

    @pytest.mark.parametrize(
        ("what", "key", "name", "most"),
        [
            ("the worker's CPU per job", "worker_cpu_ms", NO_QUEUE, 0.5),
            ("the servers' CPU per job, enqueue and all", "servers_cpu_ms", "BullMQ", 0.1),
        ],
    )
    def test_of_cpu_are_multiples_of_what_another_takes(self, what: str, key: str, name: str, most: float) -> None:
        assert f"3 a lane: {what}" in met(results(sendq=[GOOD], **{name: [GOOD | {key: most}]}))
        assert f"3 a lane: {what}" not in met(results(sendq=[GOOD], **{name: [GOOD | {key: 0.9 * most}]}))

    def test_hold_for_each_backlog(self) -> None:
        found = results(sendq=[GOOD], BullMQ=[GOOD | {"jobs_per_s": 1_000}])
        found["queues"]["sendq"]["backlogs"] = {"6": [GOOD | {"jobs_per_s": 700}]}
        found["queues"]["BullMQ"]["backlogs"] = {"6": [GOOD | {"jobs_per_s": 800}]}
        assert "3 a lane: more jobs/s than any other queue" in met(found)
        assert "6 a lane: more jobs/s than any other queue" in {bar["what"] for bar in bars(found)} - met(found)


class TestTheReport:
    def test_says_what_it_could_not_run(self) -> None:
        text = markdown(results(sendq=[GOOD]))
        assert "**arq**: not installed" in text
        assert "Not looked at: no py-spy" in text

    def test_has_the_median_with_the_least_and_the_most(self) -> None:
        runs = [GOOD | {"jobs_per_s": rate} for rate in (1_300, 1_100, 1_200)]
        assert "1,200 (1,100 to 1,300)" in markdown(results(sendq=runs))

    def test_has_the_backlogs_with_fewer_jobs_on_each_lane_beside_the_usual_one(self) -> None:
        found = results(sendq=[GOOD], BullMQ=[GOOD])
        found["queues"]["sendq"]["backlogs"] = {"6": [GOOD | {"jobs_per_s": 700}], "1": [GOOD | {"jobs_per_s": 400}]}
        text = markdown(found)
        assert "| sendq | 400 | 0.5 | 0.2 | 700 | 0.5 | 0.2 | 1,500 | 0.5 | 0.2 |" in text
        assert "| BullMQ | - | - | - | - | - | - | 1,500 | 0.5 | 0.2 |" in text

    def test_says_what_the_imports_weigh_beside_the_peak(self) -> None:
        text = markdown(results(sendq=[GOOD]))
        assert "before it does anything | 60 |" in text
        assert "| at the most | 120 |" in text
        assert "| celery | 40.2 |" in text


class TestTheReadme:
    def test_has_a_row_for_each_queue_and_leaves_a_cell_open_where_nothing_was_measured(self) -> None:
        row = {"rate": 10, "p50_ms": 5.5, "p99_ms": 20.0, "worker_cpu_ms": 4.26, "servers_cpu_ms": 3.0}
        ordinary = {"queues": {"sendq": {"rows": [row]}, "Taskiq": {"rows": [row]}}}
        table = readme.table(results(sendq=[GOOD], **{NO_QUEUE: [GOOD], "sendq -E": [GOOD]}), ordinary)
        assert table.splitlines() == [
            "| queue | backlog: jobs/s | CPU | 10/s: p50 · p99 | 10/s: CPU |",
            "|---|---:|---:|---:|---:|",
            "| sendq | 1,500 | 0.50 + 0.20 | 5.5 · 20 | 4.3 + 3.0 |",
            "| bare client | 1,500 | 0.50 + 0.20 | - | - |",
            "| Taskiq | - | - | 5.5 · 20 | 4.3 + 3.0 |",
        ]


class TestMemory:
    @pytest.mark.parametrize(
        ("module", "library"),
        [
            ("celery.app.base", "celery"),
            ("worker.serving.engine", "sendq"),
            ("json.encoder", STANDARD),
            ("_ssl", STANDARD),
        ],
    )
    def test_is_that_of_the_library_whose_module_took_it(self, module: str, library: str) -> None:
        assert library_of(module) == library

    def test_of_small_libraries_is_one_line(self) -> None:
        found = shown({f"library-{n}": float(n) for n in range(SHOWN + 2)})
        assert next(iter(found)) == f"library-{SHOWN + 1}"
        assert found[REST] == 1.0


class TestALayer:
    @pytest.mark.parametrize(
        ("files", "layer"),
        [
            (["worker/serving/engine.py", "tasks/turn.py", "aiohttp/client.py", "json/encoder.py"], "HTTP and TLS"),
            (["worker/serving/recorder.py", "sendq/ledger/dispatching/record.py", "json/encoder.py"], "ledger"),
            (["worker/serving/engine.py", "worker/telemetry/journal.py", "structlog/_base.py"], "events and logs"),
            (["worker/serving/engine.py", "tasks/policy/decide.py"], "policy and engine"),
            (["threading.py"], OTHER),
        ],
    )
    def test_is_the_innermost_that_knows_a_file(self, files: list[str], layer: str) -> None:
        assert layer_of(files) == layer

    def test_has_its_share_of_the_samples_and_a_thread_that_of_the_processor(self) -> None:
        lines = (
            "thread (7): sendq-loop;run (/x/site-packages/aiohttp/client.py:3) 30\n"
            "thread (8): pool-1;write (sendq/ledger/jobs.py:9);run (/x/site-packages/sqlalchemy/base.py:4) 10\n"
        )
        found = add_up(lines, {7: 60, 8: 20, 9: 20})
        assert found["layers"] == {"HTTP and TLS": 0.75, "ledger": 0.25}
        assert found["threads"] == {"sendq-loop": 0.6, "pool": 0.2, "those without samples": 0.2}
        assert found["hottest"] == {
            "`run` in aiohttp/client.py": 0.75,
            "`write` in sendq/ledger/jobs.py": 0.25,
        }
