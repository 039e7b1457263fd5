"""Garbage in every key of the broker, and a real worker: it goes on sending."""

from __future__ import annotations

import json
from pathlib import Path

from sendq import State
from tests.support.broker_garbage import bomb, message, odd, properties, unreadable
from tests.support.system import System, Worker, mail
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client

# An idle worker has 130 MB. The body of the compressed message would take 400 MB.
MEMORY_MOST_KB = 350_000


def test_a_worker_goes_on_sending_whatever_lies_in_the_broker(system: System) -> None:
    items = [*unreadable(), json.dumps(bomb()).encode()]
    with redis_client(system.redis.url) as client:
        for number, item in enumerate(items):
            client.hset("sendq.unacked", f"bad {number}", b"[" + item + b', "", "sendq"]')
            client.zadd("sendq.unacked_index", {f"bad {number}": 1, b"\xff": 2})
        for key in ("sendq", "_kombu.binding.sendq", "_kombu.binding.sendq.pidbox", "_kombu.binding.sendqev"):
            client.set(key, "a string")
        client.lpush("sendq.unacked_mutex", "a list")
        worker = system.start_worker("-E", SENDQ_LOCAL_TURNS="false")
        sends(system)
        eventually(lambda: not client.exists("sendq.unacked"), "the restoring")
        client.sadd("_kombu.binding.reply.sendq.pidbox", "text", b"\xff")
        for item in [*items, *wrong_commands()]:
            client.publish("/0.sendq.pidbox", item)
            client.publish("/0.sendqev/worker.heartbeat", item)
        client.lpush("sendq", *items)
        sends(system)
        dropped = worker.said().count("message_dropped")
        assert dropped >= 2 * len(items)
        for item in odd():
            client.lpush("sendq", item)
        sends(system)
        client.delete("sendq")
        client.set("sendq", "a string")
        client.delete("sendq.unacked", "sendq.unacked_index")
        client.mset({"sendq.unacked": "a string", "sendq.unacked_index": "a string"})
        sends(system)
    assert worker.process.poll() is None
    assert "Unrecoverable" not in worker.said()
    assert most_memory_kb(worker) < MEMORY_MOST_KB
    assert system.states() == {State.SENT: 12}
    assert set(system.accepted().values()) == {1}


def sends(system: System) -> None:
    sent = system.states()[State.SENT]
    for number in range(3):
        system.queue.send(f"g{number}", mail())
    system.wait_for(State.SENT, sent + 3)


def wrong_commands() -> list[bytes]:
    """Messages to the mailbox that are no command."""
    bodies: list[object] = [
        None, [], 7, "text", {}, {"method": 7}, {"method": []}, {"method": "no_such"}, {"method": "shutdown"},
        {"method": "ping", "arguments": []}, {"method": "ping", "destination": 7}, {"method": "ping", "ticket": {}},
        {"method": "ping", "reply_to": "x"}, {"method": "ping", "reply_to": {"exchange": "", "routing_key": "sendq"}},
        {"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"}, {"method": "ping", "arguments": {"x": 1}},
        {"method": "pool_shrink", "arguments": {"n": 100}}, {"method": "revoke", "arguments": {"task_id": {}}},
        {"method": "cancel_consumer", "arguments": {"queue": "sendq"}}, {"method": "revoke", "arguments": {"x": 1}},
    ]  # fmt: skip
    at = properties(delivery_info={"exchange": "sendq.pidbox", "routing_key": ""})
    plain = at | {"body_encoding": None}
    return [json.dumps(message(body=json.dumps(body), properties=plain)).encode() for body in bodies]


def most_memory_kb(worker: Worker) -> int:
    (line,) = [one for one in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1])
