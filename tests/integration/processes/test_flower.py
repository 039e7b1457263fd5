"""What Flower shows, and that our Celery lives beside somebody else's on the same Redis."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from sendq import State
from sendq.simulator import Fault
from tests.support.flower import child, flower
from tests.support.system import ROOT, System, mail
from tests.support.waiting import LIMIT_S, eventually
from worker.remote_control import REFUSED


class TestFlower:
    def test_shows_what_came_of_each_attempt_as_its_state(self, system: System) -> None:
        system.api.grant("closed", status="invalid")
        system.api.will(Fault.status(503, headers={"Retry-After": "600"}), grant="flaky", times=None)
        system.api.will(Fault.status(429, headers={"Retry-After": "600"}), grant="tired", times=None)
        with flower(system) as ask:
            system.start_worker(
                "-E", SENDQ_POLICY_FILE=""
            )  # with its own backoffs, so that a retry can be seen waiting
            eventually(ask.worker, "a heartbeat at Flower")
            system.prove()
            wanted = {
                system.queue.send("open", mail()).id: "SUCCESS",
                system.queue.send("open", mail("bad@marked.example")).id: "FAILURE",
                system.queue.send("flaky", mail()).id: "RETRY",
                system.queue.send("tired", mail()).id: "HELD",
                system.queue.send("closed", mail()).id: "REAUTH",
            }
            eventually(lambda: states(ask("/api/tasks")) == wanted, f"{wanted} in Flower")
            held = next(task for task in ask("/api/tasks").values() if task["state"] == "HELD")
            assert held["kwargs"] == "{'grant': 'tired'}"
            assert "(429)" in held["exception"]
            # Flower's own metrics and its page of workers count attempts, and no bundles.
            counted = ask("/metrics")
            assert f'{{task="sendq.send",type="task-succeeded",worker="celery@{socket.gethostname()}"}} 1.0' in counted
            assert "sendq.bundle" not in counted
            (worker,) = ask("/workers?json=1")["data"]
            assert (worker["task-received"], worker["task-succeeded"], worker["status"]) == (5, 1, True)
            busy = eventually(lambda: ask.worker(processed=5), "the worker's own heartbeat")
            assert busy["active"] == 0

    @pytest.mark.long
    def test_misses_no_attempt_of_many(self, system: System) -> None:
        with flower(system) as ask:
            system.start_worker("-E")
            eventually(ask.worker, "a heartbeat at Flower")
            system.prove("default", "google")
            for grant in range(60):
                objects = [f"message-{number}" for number in range(20)]
                system.queue.modify(f"grant-{grant}", objects, unread=True, provider="google")
            system.wait_for(State.SENT, 1200)
            succeeded = f'{{task="sendq.modify",type="task-succeeded",worker="celery@{socket.gethostname()}"}} 1200.0'
            eventually(lambda: succeeded in (ask("/metrics") or ""), "1,200 successes in Flower")

    def test_shows_how_many_calls_a_worker_has_in_flight(self, system: System) -> None:
        system.api.will(Fault.slow(LIMIT_S), grant="slow", times=None)
        with flower(system) as ask:
            system.start_worker("-E")
            system.queue.send("slow", mail())
            eventually(lambda: ask.worker(active=1), "a call in flight on Flower's page of workers")

    def test_lists_each_job_by_its_id_and_name_with_the_deciding_rule(self, system: System) -> None:
        system.api.grant("closed", status="invalid")
        with flower(system) as ask:
            system.start_worker("-E")
            eventually(ask.worker, "a heartbeat at Flower")
            sent = system.queue.send("open", mail())
            dead = system.queue.send("open", mail("bad@marked.example"))
            closed = system.queue.send("closed", mail())
            batch = system.queue.modify("open", ["m1"], unread=True)
            system.wait_for(State.SENT, 2)
            wanted = {sent.id, dead.id, closed.id}
            tasks = eventually(lambda: complete(ask("/api/tasks"), wanted), "the tasks in Flower")
        assert (tasks[sent.id]["name"], tasks[sent.id]["state"]) == ("sendq.send", "SUCCESS")
        assert "accepted (200)" in tasks[sent.id]["result"]
        assert (tasks[dead.id]["state"], tasks[dead.id]["exception"]) == ("FAILURE", "bad_request (400)")
        assert tasks[closed.id]["state"] == "REAUTH"
        assert [task["state"] for task in tasks.values() if task["name"] == "sendq.modify"] == ["SUCCESS"]
        assert system.queue.batch(batch.id).waiting == 0
        # Jobs, not the bundles that carry them; and nothing private.
        assert {task["name"] for task in tasks.values()} == {"sendq.send", "sendq.modify"}
        assert "marked" not in str(tasks)


class TestItsButtons:
    def test_are_refused_and_change_nothing(self, system: System) -> None:
        """Else Flower would say "revoked" of a job that goes out all the same."""
        with flower(system, FLOWER_READ_ONLY="false") as ask:
            worker = system.start_worker("-E")
            (name,) = eventually(lambda: ask("/api/workers?refresh=true"), "a worker that Flower knows")
            job = system.queue.send("later", mail(), due_at=datetime.now(UTC) + timedelta(hours=1)).id
            buttons = [
                f"task/revoke/{job}", f"worker/shutdown/{name}", f"worker/pool/shrink/{name}?n=8",
                f"worker/pool/restart/{name}", f"worker/queue/cancel-consumer/{name}?queue=sendq",
                f"task/timeout/sendq.bundle?workername={name}&soft=1",
                f"task/rate-limit/sendq.bundle?workername={name}&ratelimit=1",
            ]  # fmt: skip
            answers = {path: ask.post(f"/api/{path}") for path in buttons}
            assert {status for status, _ in answers.values()} == {500}, answers
            assert "sendq cancel JOB" in (system.directory / "flower.log").read_text()
        with flower(system) as ask:
            assert ask.post(f"/api/task/revoke/{job}") == (403, "Read only mode is enabled")
        for command in (["revoke", job], ["shutdown"]):
            run = [sys.executable, "-m", "celery", "-A", "worker", "control", *command]
            done = subprocess.run(run, env=system.environ(), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
            assert (done.returncode != 0, "refuse" in done.stdout + done.stderr) == (True, True)
        # A sender that does not ask first is refused by the worker.
        with Celery("raw", broker=system.redis.url, set_as_current=False) as raw:
            raw.conf.control_exchange = "sendq"
            (answer,) = raw.control.revoke(job, reply=True, timeout=LIMIT_S, limit=1)
            assert answer == {name: {"error": REFUSED}}
            raw.control.broadcast("shutdown")
            assert raw.control.ping(timeout=LIMIT_S, limit=1) == [{name: {"ok": "pong"}}]
        assert system.state(job) is State.QUEUED
        sent = system.queue.send("now", mail()).id
        eventually(lambda: system.state(sent) is State.SENT, "a job after the commands")
        assert worker.process.poll() is None


def states(tasks: dict[str, dict[str, Any]] | None) -> dict[str, str]:
    return {name: task["state"] for name, task in (tasks or {}).items()}


def complete(tasks: dict[str, dict[str, Any]] | None, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """The tasks, once all that are wanted have ended; until then none."""
    if not tasks or len(tasks) <= len(wanted) or not wanted <= tasks.keys():
        return {}
    over = {"SUCCESS", "FAILURE", "REAUTH"}
    return tasks if all(task["state"] in over for task in tasks.values()) else {}


FOREIGN = '''
"""Somebody else's Celery application, on the same Redis database, with Celery's defaults."""
import os, pathlib
from celery import Celery
app = Celery("theirs", broker=os.environ["REDIS_URL"])

@app.task
def theirs(number):
    with pathlib.Path(os.environ["DONE"]).open("a") as done:
        done.write(f"{number}\\n")
'''


def test_a_foreign_celery_application_on_the_same_redis_is_left_alone(system: System, tmp_path: Path) -> None:
    home, done = tmp_path / "theirs", tmp_path / "done"
    home.mkdir()
    (home / "theirs.py").write_text(FOREIGN)
    environ = {**os.environ, "REDIS_URL": system.redis.url, "DONE": str(done), "PYTHONPATH": str(home)}
    run = [sys.executable, "-m", "celery", "-A", "theirs"]
    call = [sys.executable, "-c", "import theirs; [theirs.theirs.delay(number) for number in range(50)]"]
    # Theirs waits in the broker while only our worker runs: ours must not take it.
    system.start_worker()
    subprocess.run(call, env=environ, cwd=home, check=True, timeout=LIMIT_S)
    ours = [system.queue.send("beside", mail()).id for _ in range(20)]
    system.wait_for(State.SENT, 20)
    assert not done.exists()
    with child([*run, "worker", "-P", "solo"], environ, tmp_path / "theirs.log", cwd=home):
        eventually(lambda: done.exists() and len(done.read_text().split()) == 50, "their 50 tasks")
        more = [system.queue.send("beside", mail()).id for _ in range(20)]
        system.wait_for(State.SENT, 40)
        # Their remote control reaches their workers, not ours.
        subprocess.run([*run, "control", "shutdown"], env=environ, cwd=home, capture_output=True, timeout=LIMIT_S)
        last = system.queue.send("beside", mail()).id
        eventually(lambda: system.state(last) is State.SENT, "a job after their shutdown")
    assert sorted(done.read_text().split(), key=int) == [str(number) for number in range(50)]
    accepted = system.accepted()
    assert all(accepted[job] == 1 for job in [*ours, *more, last])
