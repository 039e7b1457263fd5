"""`why`, `status` and the probe when the broker is gone or full, or no worker reads it; and when that is over."""

from __future__ import annotations

import subprocess
import sys

from sendq import State
from sendq.operators import Operators
from tests.support.system import ROOT, System, mail
from tests.support.waiting import LIMIT_S, eventually
from worker.redis.embedded import redis_client


def sends(system: System) -> None:
    sent = system.states()[State.SENT]
    system.queue.send("g0", mail())
    system.wait_for(State.SENT, sent + 1)


def is_told(system: System, job: str, reason: str) -> str:
    """Wait until `why` has this reason; what it says."""
    eventually(lambda: system.queue.why(job).reason == reason, f"the reason {reason}, not {system.queue.why(job)}")
    says = system.queue.why(job).says
    assert "ahead" not in says
    assert " since 20" in says
    return says


def probe(system: System) -> str:
    """What `sendq health --ready` prints; "" if it is ready."""
    run = [sys.executable, "-m", "worker.cli", "health", "--ready"]
    done = subprocess.run(run, env=system.environ(), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_a_broker_that_is_gone_or_full_is_told_until_it_is_back(system: System) -> None:
    worker = system.start_worker(SENDQ_LOCAL_TURNS="false")
    sends(system)
    eventually(lambda: probe(system) == "", "a worker that is ready")
    system.redis.stop()
    gone = system.queue.send("gone", mail()).id
    assert "Redis cannot be reached" in is_told(system, gone, "broker")
    assert Operators(system.engine).status().broker.unpublished_since is not None
    assert "no broker" in eventually(lambda: probe(system), "a worker that is not ready")
    system.redis.start()
    eventually(lambda: system.state(gone) is State.SENT, "the sending")
    assert Operators(system.engine).status().broker.unpublished_since is None
    with redis_client(system.redis.url) as client:
        client.config_set("maxmemory", "1")
        full = system.queue.send("full", mail()).id
        assert "takes no messages" in is_told(system, full, "broker")
        assert "published" in eventually(lambda: probe(system), "a worker that is not ready")
        client.config_set("maxmemory", "0")
    eventually(lambda: system.state(full) is State.SENT, "the sending")
    eventually(lambda: probe(system) == "", "a worker that is ready again")
    assert Operators(system.engine).status().broker.unpublished_since is None
    assert worker.process.poll() is None


def test_a_worker_that_does_not_read_its_queue_is_told(system: System) -> None:
    system.start_controlled_worker(SENDQ_LOCAL_TURNS="false", SENDQ_UNCLAIMED_AFTER_S="3", SENDQ_TURN_S="2")
    sends(system)
    system.control("cancel_consumer", "sendq")
    job = system.queue.send("g1", mail()).id
    assert "do not read their queue" in is_told(system, job, "unclaimed")
    assert Operators(system.engine).status().broker.unclaimed_since is not None
    assert "no broker" in eventually(lambda: probe(system), "a worker that is not ready")
    system.control("add_consumer", "sendq")
    eventually(lambda: system.state(job) is State.SENT, "the sending")
    eventually(lambda: Operators(system.engine).status().broker.unclaimed_since is None, "the end of it")
