"""What a worker tells Prometheus: a real one is scraped. The alert rules and the board ask for nothing else."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sendq import State
from sendq.simulator import Fault
from tests.support.system import ROOT, System, Worker, mail
from tests.support.waiting import LIMIT_S, eventually
from worker.cli.main import sendq

ALERTS, BOARD = ROOT / "deploy" / "alerts.yml", ROOT / "deploy" / "grafana.json"

# What PromQL has besides names of metrics.
WORDS = {"by", "on", "sum", "max", "min", "rate", "increase", "histogram_quantile", "absent", "clamp_min", "or", "and",
         "unless", "without", "ignoring", "offset", "vector", "count", "bool", "time", "label_replace", "max_over_time",
         "changes", "delta"}  # fmt: skip


class Scraped:
    """The metrics of one worker, scraped anew at each question."""

    def __init__(self, worker: Worker) -> None:
        line = eventually(
            lambda: next((s for s in worker.said().splitlines() if "metrics_started" in s), ""), "its port"
        )
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}/metrics"

    def text(self) -> str:
        with urllib.request.urlopen(self.url, timeout=LIMIT_S) as answer:
            text: str = answer.read().decode()
            return text

    def families(self) -> list[Metric]:
        return list(text_string_to_metric_families(self.text()))

    def names(self) -> set[str]:
        """Every name that a query can ask for: of samples, and of families without any yet."""
        known = set()
        for family in self.families():
            known |= {sample.name for sample in family.samples} | {family.name}
            known |= {f"{family.name}_total"} if family.type == "counter" else set()
            if family.type == "histogram":
                known |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        return known

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with (at least) these labels."""
        return sum(
            sample.value
            for family in self.families()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def scraped(system: System) -> Scraped:
    worker = Scraped(system.start_worker(SENDQ_METRICS_ADDRESS="127.0.0.1:0"))
    eventually(lambda: worker.value("sendq_leader") == 1, "a leader")
    return worker


class TestAWorkersMetrics:
    def test_count_calls_by_provider_status_rule_and_route(self, system: System, scraped: Scraped) -> None:
        system.prove("default", "google")
        for _ in range(3):
            system.queue.send("open", mail(), provider="google")
        system.queue.send("open", mail("bad@example.com"), provider="google")
        system.queue.modify("open", ["m1"], unread=True)
        system.wait_for(State.SENT, 4)
        system.wait_for(State.DEAD, 1)
        eventually(lambda: scraped.value("sendq_calls_total") == 5, "five calls counted")
        sends = {"application": "default", "provider": "google", "operation": "send"}
        assert scraped.value("sendq_calls_total", **sends, status="2xx", rule="accepted", route="done") == 3
        assert scraped.value("sendq_calls_total", **sends, status="4xx", rule="bad_request", route="dead_letter") == 1
        assert scraped.value("sendq_calls_total", operation="modify", status="2xx") == 1
        assert scraped.value("sendq_jobs_ended_total", state="sent", operation="send") == 3
        assert scraped.value("sendq_jobs_ended_total", state="dead", rule="bad_request") == 1
        assert scraped.value("sendq_call_seconds_count", operation="send") == 4
        assert scraped.value("sendq_queue_seconds_count", operation="modify") == 1
        assert scraped.value("sendq_commit_outcomes_sum") == 5
        assert scraped.value("sendq_turns_offered_total") >= 1
        assert scraped.value("sendq_dispatch_rounds_total") >= 1

    def test_tell_what_the_ledger_holds_and_the_process_does(self, system: System, tmp_path: Path) -> None:
        system.api.grant("closed", status="invalid")
        system.api.will(
            Fault.status(429, type="rate_limit_error", headers={"Retry-After": "600"}), grant="tired", times=None
        )
        idle = Scraped(system.start_worker(SENDQ_METRICS_ADDRESS="127.0.0.1:0"))
        system.queue.send("tired", mail())
        system.queue.send("closed", mail())
        system.queue.send("open", mail("bad@example.com"))
        system.wait_for(State.DEAD, 1)
        eventually(lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE held_until IS NOT NULL") == 1, "a hold")
        eventually(lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE closed_at IS NOT NULL") == 1, "closed")
        eventually(lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE turn IS NOT NULL") == 0, "no turn open")
        eventually(lambda: idle.value("sendq_leader") == 1, "a leader")
        seen = idle.families()  # the ledger's numbers are asked for now, for the first time

        def value(name: str, **labels: str) -> float:
            samples = [sample for family in seen for sample in family.samples if sample.name == name]
            return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

        assert value("sendq_ledger_up") == 1
        assert value("sendq_jobs", state="queued") == 2
        assert value("sendq_dead_letters", rule="bad_request") == 1
        assert value("sendq_lanes", state="held") == 1
        assert value("sendq_lanes_closed", rule="grant_unauthorized") == 1
        assert value("sendq_holds", scope="grant") == 1
        assert value("sendq_held_jobs", state="held") == value("sendq_held_grants", state="held") == 1
        assert value("sendq_held_jobs", state="closed", rule="grant_unauthorized") == 1
        assert value("sendq_dispatch_age_seconds") < LIMIT_S
        assert value("sendq_turns") == 0
        assert value("sendq_workers") == 1
        assert value("sendq_slots") == value("sendq_capacity") == 100
        assert value("sendq_calls_in_flight") == value("sendq_slow_calls") == value("sendq_outcomes_unrecorded") == 0
        assert value("sendq_heartbeat_age_seconds") < 10

    def test_name_no_grant_and_no_job(self, system: System, scraped: Scraped) -> None:
        job = system.queue.send("a-grant-of-somebody", mail())
        system.wait_for(State.SENT, 1)
        eventually(lambda: scraped.value("sendq_calls_total") == 1, "the call counted")
        text = scraped.text()
        assert not {word for word in ("a-grant-of-somebody", job.id, "leyah", "@") if word in text}

    def test_of_the_ledger_come_from_the_leader_alone(self, system: System, scraped: Scraped) -> None:
        other = Scraped(system.start_worker(SENDQ_METRICS_ADDRESS="127.0.0.1:0"))
        assert other.value("sendq_leader") == 0
        assert "sendq_jobs" not in other.names()
        assert {"sendq_calls_in_flight", "sendq_heartbeat_age_seconds"} <= other.names()
        assert "sendq_jobs" in scraped.names()

    def test_ask_the_ledger_once_however_often_they_are_scraped(self, system: System, scraped: Scraped) -> None:
        assert scraped.value("sendq_jobs", state="queued") == 0
        system.api.grant("closed", status="invalid")
        system.queue.send("closed", mail())
        eventually(lambda: scraped.value("sendq_calls_total") >= 1, "the call")
        assert scraped.value("sendq_jobs", state="queued") == 0


class TestAnAddressThatIsTaken:
    def test_stops_the_worker_with_a_sentence(self, system: System, scraped: Scraped) -> None:
        address = scraped.url.removeprefix("http://").removesuffix("/metrics")
        environ = system.environ(SENDQ_METRICS_ADDRESS=address)
        second = Worker(environ, system.directory / "second.log")
        assert second.process.wait(LIMIT_S) == 2
        assert "SENDQ_METRICS_ADDRESS: cannot be listened on" in second.said().replace("sendq: ", "")


class TestWhatIsMadeOfThem:
    def test_is_scraped_where_compose_serves_it_under_the_name_that_the_alerts_know(self) -> None:
        (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        (found,) = job["dns_sd_configs"]
        _, _, port = services[found["names"][0]]["environment"]["SENDQ_METRICS_ADDRESS"].rpartition(":")
        assert int(port) == found["port"]
        named = {name for rule in alerts() for name in re.findall(r'job="(\w+)"', rule["expr"])}
        assert named == {job["job_name"]}

    def test_asks_for_metrics_that_there_are(self, scraped: Scraped) -> None:
        there = scraped.names() | {"up"}
        for expression in [*(rule["expr"] for rule in alerts()), *board_expressions()]:
            assert names_in(expression) <= there, expression

    def test_alerts_say_what_it_means_and_which_command_tells_more(self) -> None:
        for rule in alerts():
            runbook = rule["annotations"]["runbook"]
            commands = re.findall(r"`sendq (\w+)", runbook)
            assert commands, rule["alert"]
            assert set(commands) <= sendq.commands.keys(), rule["alert"]
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("page", "ticket")


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def board_expressions() -> list[str]:
    board = json.loads(BOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(found) >= 10
    return found


def names_in(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression: what is left without labels and PromQL's own words."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*", bare)) - WORDS
