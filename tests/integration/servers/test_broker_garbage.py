"""Garbage in the broker's keys, on a real Redis: what kombu's channel reads, restores and binds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue
from redis import Redis
from structlog.testing import capture_logs

from settings import Settings
from settings.celery import ENQUEUE_QUEUE, celery_config
from tests.support.broker_garbage import bomb, message, properties, unreadable
from worker.redis import transport, unknown_messages
from worker.redis.embedded import redis_client
from worker.redis.transport import SET_ASIDE
from worker.redis.unknown_messages import take_back

ITEMS = list(unreadable())


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    config = celery_config(Settings(redis_url=redis_url))
    transport.register()
    app = Celery("ours", set_as_current=False, config_source=config)
    yield app
    app.close()


@pytest.fixture
def channel(app: Celery) -> Iterator[Any]:
    with app.connection() as connection:
        yield connection.default_channel


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with redis_client(redis_url) as client:
        yield client


def good() -> str:
    return json.dumps(message(properties=properties(delivery_tag="good")))


class TestAChannel:
    def test_publishes_and_acknowledges_with_one_client(
        self, channel: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Any] = []
        new = Redis.__init__

        def counted(self: Redis, *args: Any, **options: Any) -> None:
            made.append(self)
            new(self, *args, **options)

        monkeypatch.setattr(Redis, "__init__", counted)
        for number in range(5):
            channel.basic_publish(message(properties=properties(delivery_tag=f"tag-{number}")), "", "sendq")
            channel.basic_ack(channel.basic_get("sendq").delivery_tag)
        assert len(made) == 1
        assert (redis.llen("sendq"), redis.hlen("sendq.unacked")) == (0, 0)

    def test_goes_on_when_its_connections_were_closed(self, channel: Any, redis: Redis) -> None:
        channel.basic_publish(message(properties=properties(delivery_tag="one")), "", "sendq")
        channel.pool.disconnect()
        channel.basic_publish(message(properties=properties(delivery_tag="two")), "", "sendq")
        assert redis.llen("sendq") == 2


class TestAQueue:
    def test_is_read_past_what_is_no_message_with_one_line_each(self, channel: Any, redis: Redis) -> None:
        redis.lpush("sendq", *ITEMS, json.dumps(bomb()), good())
        with capture_logs() as logs:
            found = channel.basic_get("sendq")
        assert found.delivery_tag == "good"
        assert [line["event"] for line in logs] == ["message_dropped"] * (len(ITEMS) + 1)
        assert (logs[0]["key"], logs[0]["reason"], logs[0]["size"]) == ("sendq", "not JSON", 4)

    def test_of_another_type_is_deleted_and_takes_messages_again(self, app: Celery, redis: Redis) -> None:
        redis.set("sendq", "a string")
        with capture_logs() as logs:
            app.send_task("sendq.bundle", args=[[]], queue="sendq")
        assert redis.llen("sendq") == 1
        assert [line["reason"] for line in logs] == ["a key of another type"]

    def test_of_unknown_messages_hands_back_what_it_can_read(self, app: Celery, redis: Redis) -> None:
        # Its body is not JSON. Celery gives tasks that other tests name to every application of the process.
        body = {"body": "bm90IEpTT04=", "headers": {"task": "sendq.of_a_later_version", "id": "1"}}
        redis.lpush(SET_ASIDE, *ITEMS, json.dumps(message(**body)), good())
        app.task(name="sendq.bundle")(good)
        with app.connection() as connection:
            assert take_back(app, connection) == 1
        assert (redis.llen(SET_ASIDE), redis.llen("sendq"), redis.hlen("sendq.unacked")) == (1, 1, 0)


class TestAConnectionThatIsClosedMeanwhile:
    """By Celery's consumer, which reconnects after the broker was away."""

    def test_is_no_bug_of_those_who_use_it(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        def closed_first(app: Celery, connection: Any) -> int:
            connection._close()
            with pytest.raises(AttributeError):
                take_back(app, connection)
            return take_back(app, connection)

        monkeypatch.setattr(unknown_messages, "take_back", closed_first)
        unknown_messages.UnknownMessages(app).run_once()


class TestTheUnacknowledgedMessages:
    def test_are_restored_except_for_what_is_none(self, channel: Any, redis: Redis) -> None:
        entries = [*ITEMS, *(b"[" + item + b', "", "sendq"]' for item in ITEMS)]
        entries += [json.dumps([message(), "", "customers"]).encode(), json.dumps([bomb(), "", "sendq"]).encode()]
        for number, entry in enumerate(entries):
            redis.hset("sendq.unacked", f"bad {number}", entry)
            redis.zadd("sendq.unacked_index", {f"bad {number}": number})
        redis.hset("sendq.unacked", "good", json.dumps([message(), "", "sendq"]))
        redis.zadd("sendq.unacked_index", {b"good": 1, b"\xff\xfe": 2, b"without an entry": 3})
        with capture_logs() as logs:
            channel.qos.restore_visible(num=1_000)
        assert (redis.hlen("sendq.unacked"), redis.zcard("sendq.unacked_index")) == (0, 0)
        assert [line["event"] for line in logs] == ["message_dropped"] * len(entries)
        assert redis.llen("sendq") == 1
        assert not redis.exists("customers")

    def test_of_an_applications_own_exchange_return_to_the_queue_that_it_leads_to(
        self, app: Celery, channel: Any, redis: Redis, redis_url: str
    ) -> None:
        """Its routing key is the application's own name for our queue."""
        with Celery("theirs", set_as_current=False, broker=redis_url) as theirs, theirs.connection() as connection:
            exchange: Any = Exchange("billing", type="direct")  # type: ignore[no-untyped-call]
            queue: Any = Queue(ENQUEUE_QUEUE, exchange, routing_key="mails")  # type: ignore[no-untyped-call]
            queue(connection).declare()
            theirs.send_task(
                "sendq.enqueue", args=[{}], exchange="billing", routing_key="mails", connection=connection, retry=False
            )
        sent: Any = redis.lindex(ENQUEUE_QUEUE, 0)
        taken = channel.basic_get(ENQUEUE_QUEUE)
        assert (taken.delivery_info["exchange"], taken.delivery_info["routing_key"]) == ("billing", "mails")
        channel.qos.append(taken, taken.delivery_tag)
        assert (redis.llen(ENQUEUE_QUEUE), redis.hlen("sendq.unacked")) == (0, 1)
        with capture_logs() as logs:
            channel.qos.restore_by_tag(taken.delivery_tag)
        assert (redis.llen(ENQUEUE_QUEUE), redis.hlen("sendq.unacked"), logs) == (1, 0, [])
        restored: Any = redis.lindex(ENQUEUE_QUEUE, 0)
        assert json.loads(restored)["body"] == json.loads(sent)["body"]

    @pytest.mark.parametrize("key", ["sendq.unacked", "sendq.unacked_index"])
    def test_of_another_type_are_deleted(self, channel: Any, redis: Redis, key: str) -> None:
        redis.set(key, "a string")
        redis.lpush("sendq", good())
        message = channel.basic_get("sendq")
        assert redis.hlen("sendq.unacked") == 1
        redis.delete(key)
        redis.set(key, "a string")
        message.ack()
        assert (redis.hlen("sendq.unacked"), redis.zcard("sendq.unacked_index")) == (0, 0) or key == "sendq.unacked"
        redis.set(key, "a string")
        if key == "sendq.unacked":
            redis.zadd("sendq.unacked_index", {"t": 1})
        channel.qos.restore_visible(num=10)
        assert not redis.exists(key)

    @pytest.mark.parametrize("lock", ["a list", "a string"])
    def test_are_restored_though_a_lock_never_expires(self, channel: Any, redis: Redis, lock: str) -> None:
        (redis.lpush if lock == "a list" else redis.set)("sendq.unacked_mutex", lock)
        redis.hset("sendq.unacked", "good", json.dumps([message(), "", "sendq"]))
        redis.zadd("sendq.unacked_index", {"good": 1})
        channel.qos.restore_visible(num=10)
        assert redis.llen("sendq") == 1


class TestBindings:
    def test_that_are_none_are_removed(self, channel: Any, redis: Redis) -> None:
        channel.exchange_declare("e", "direct")
        channel.queue_bind("q", "e", "k")
        redis.sadd("_kombu.binding.e", "text", b"\xff\xfe", "", "a\x06\x16b", "a\x06\x16b\x06\x16c\x06\x16d")
        with capture_logs() as logs:
            assert channel.get_table("e") == [("k", "", "q")]
        assert [line["event"] for line in logs] == ["message_dropped"] * 5
        assert redis.scard("_kombu.binding.e") == 1

    def test_of_another_type_are_deleted(self, channel: Any, redis: Redis) -> None:
        channel.exchange_declare("e", "direct")
        redis.set("_kombu.binding.e", "a string")
        channel.queue_bind("q", "e", "k")
        assert channel.get_table("e") == [("k", "", "q")]


class TestRemoteControl:
    def test_reads_past_what_is_no_message(self, app: Celery, redis: Redis) -> None:
        """Published to the exchange of remote control, between two good commands."""
        heard: list[Any] = []
        with app.connection() as connection:
            node = app.control.mailbox(connection).Node("test")
            node.channel = connection.default_channel
            node.listen(callback=lambda body, _message: heard.append(body))
            _drain(connection, 0.2)
            app.control.broadcast("first", connection=connection)
            for item in [*ITEMS, json.dumps(bomb()).encode()]:
                redis.publish("/0.sendq.pidbox", item)
            app.control.broadcast("last", connection=connection)
            with capture_logs() as logs:
                until = time.monotonic() + 60
                while len(heard) < 2 and time.monotonic() < until:
                    _drain(connection, 0.1)
        assert [body["method"] for body in heard] == ["first", "last"]
        assert [line["event"] for line in logs] == ["message_dropped"] * (len(ITEMS) + 1)


def _drain(connection: Any, limit_s: float) -> None:
    with suppress(TimeoutError):
        connection.drain_events(timeout=limit_s)
