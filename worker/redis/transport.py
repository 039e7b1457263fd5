"""kombu's transport for Redis, except that what it cannot read is dropped, with one line in the log for each item.

kombu takes the items of its keys for its own messages: an item that is none raises in the worker's main loop and ends
the worker, and an entry in the hash of unacknowledged messages ends each worker that comes to restore it
(celery/celery#7975, open). A key of another type than kombu's makes every command on it fail, so it is deleted.

Only sendq's own keys are treated like this: connections of other Celery applications in this process, such as those to
the brokers that outcome tasks go to, use kombu's channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty
from typing import Any, TypeVar

from kombu.transport import TRANSPORT_ALIASES, _transport_cache
from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str

from settings.celery import ENQUEUE_QUEUE, QUEUE, UNACKED
from worker.redis.envelope import Unreadable, as_item, message_of, unacknowledged
from worker.telemetry import journal
from worker.telemetry.alerts import alert

T = TypeVar("T")

SET_ASIDE = f"{QUEUE}.unknown"

# Whatever is restored goes to one of these.
QUEUES = frozenset({QUEUE, ENQUEUE_QUEUE, SET_ASIDE})


class QoS(kombu_redis.QoS):
    """The unacknowledged messages: a hash of messages, and an index of when they were received."""

    def append(self, message: Any, delivery_tag: str) -> None:
        self.channel.with_right_types(partial(super().append, message, delivery_tag))

    def ack(self, delivery_tag: str) -> None:
        self.channel.with_right_types(partial(super().ack, delivery_tag))

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        self._unlock()
        self.channel.with_right_types(partial(super().restore_visible, start, num, interval))

    def _unlock(self) -> None:
        """Delete a lock that is none of kombu's: one that never expires would stop all restoring."""
        with self.channel.conn_or_acquire() as client:
            if client.ttl(self.unacked_mutex_key) == -1:  # it exists, and has no time to live
                client.delete(self.unacked_mutex_key)
                journal.message_dropped(self.unacked_mutex_key, "a lock that never expires", size=0)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:
        """Move one message back to its queue."""

        def restore(pipe: Any) -> None:
            item = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if item:
                self.channel.put_back(item, pipe, leftmost)

        with self.channel.conn_or_acquire(client) as connection:
            connection.transaction(restore, self.unacked_key)


class Channel(kombu_redis.Channel):
    """A channel that drops what is no message of its queue."""

    QoS = QoS
    _own_client: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for all publishes and acknowledgements, which any thread may use: kombu makes one for each, and to
        make one costs more than a command. Waiting for messages and subscriptions have their own.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._own_client is None or self._own_client.connection_pool is not self.pool:
            self._own_client = super()._create_client()
        return self._own_client

    def put_back(self, item: bytes, pipe: Any, leftmost: bool) -> None:
        """Add the commands to ``pipe`` that return an unacknowledged message to its queue."""
        try:
            payload, queue = unacknowledged(item, QUEUES)
        except Unreadable as error:
            journal.message_dropped(self.unacked_key, str(error), size=len(item))
            return
        key = self._q_for_pri(queue, self._get_message_priority(payload, reverse=False))
        (pipe.lpush if leftmost else pipe.rpush)(key, as_item(payload))

    def with_right_types(self, action: Callable[[], T]) -> T:
        """Run ``action``; if a key has the wrong type, delete those that have, and run it again."""
        try:
            return action()
        except self.ResponseError as error:
            if not self._mended(error):
                raise
            return action()

    def _mended(self, error: Exception) -> bool:
        """Delete our keys that have the wrong type, if that is the error; whether there were some."""
        if "WRONGTYPE" not in str(error):
            return False
        with self.conn_or_acquire() as client:
            wrong = [key for key, kind in self._types() if bytes_to_str(client.type(key)) not in (kind, "none")]
            for key in wrong:
                client.delete(key)
                journal.message_dropped(key, "a key of another type", size=0)
        return bool(wrong)

    def _types(self) -> Iterator[tuple[str, str]]:
        """Our keys, and the type of each."""
        for queue in QUEUES:
            yield from ((self._q_for_pri(queue, step), "list") for step in self.priority_steps)
        yield self.unacked_key, "hash"
        yield self.unacked_index_key, "zset"
        for exchange in self.state.exchanges:
            yield self.keyprefix_queue % exchange, "set"
            yield self.keyprefix_binding_permanent % exchange, "set"

    def _read(self, item: bytes, queue: str) -> dict[str, Any] | None:
        try:
            return message_of(item, queue)
        except Unreadable as error:
            journal.message_dropped(queue, str(error), size=len(item))
            if queue == ENQUEUE_QUEUE:  # it may have been somebody's mail
                alert("enqueue_rejected", "unreadable", level="error")
            return None

    def _brpop_read(self, **options: Any) -> bool:
        """As kombu's, except for what cannot be read."""
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except self.ResponseError as error:
                if not self._mended(error):
                    raise
                reply = None
            if not reply:
                raise Empty
            key, item = reply
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            message = self._read(item, queue)
            if message is not None:
                self.connection._deliver(message, queue)
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """The next message of a queue; raises `Empty`."""
        with self.conn_or_acquire() as client:
            for step in self.priority_steps:
                while item := self.with_right_types(partial(client.rpop, self._q_for_pri(queue, step))):
                    message = self._read(item, queue)
                    if message is not None:
                        return message
        raise Empty

    def _size(self, queue: str) -> int:
        return int(self.with_right_types(partial(super()._size, queue)))

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self.with_right_types(partial(super()._put, queue, message, **options))

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self.qos.restore_by_tag(message.delivery_tag, leftmost=leftmost)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        self.with_right_types(partial(super()._queue_bind, exchange, routing_key, pattern, queue))

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of an exchange: routing key, pattern and queue of each."""
        key = self.keyprefix_queue % exchange
        with self.conn_or_acquire() as client:
            found = {
                member: _binding(member, self.sep) for member in self.with_right_types(partial(client.smembers, key))
            }
            for member, binding in found.items():
                if binding is None:
                    client.srem(key, member)
                    journal.message_dropped(key, "not a binding", size=len(member))
        return [binding for binding in found.values() if binding is not None]

    def _receive_one(self, c: Any) -> bool | None:
        """As kombu's, except for what cannot be read: remote control, and events."""
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen: Any = None
            raise
        if not isinstance(response, list | tuple):
            return None
        payload = self._handle_message(c, response)
        if not bytes_to_str(payload["type"]).endswith("message") or not payload["data"]:
            return None
        channel = payload["channel"].decode(errors="replace")
        exchange = (channel.partition(".")[2] if channel.startswith("/") else channel).split("/", 1)[0]
        message = self._read(payload["data"], exchange)
        if message is None or exchange not in self._fanout_to_queue:
            return None
        self._deliver_fanout_message(message, exchange)
        return True


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same, on the server that sentinels name."""


def _binding(member: bytes, separator: str) -> tuple[str, ...] | None:
    """The binding that a member of an exchange's set encodes; None: it encodes none."""
    try:
        parts = tuple(member.decode().split(separator))
    except UnicodeDecodeError:
        return None
    return parts if len(parts) == 3 else None


class Transport(kombu_redis.Transport):
    """kombu's transport; sendq's connections, which have their own key of unacknowledged messages, use `Channel`."""

    def __init__(self, client: Any, **options: Any) -> None:
        if client.transport_options.get("unacked_key") == UNACKED:
            self.Channel = Channel
        super().__init__(client, **options)


class SentinelTransport(kombu_redis.SentinelTransport):
    """The same for a server that sentinels name."""

    def __init__(self, client: Any, **options: Any) -> None:
        if client.transport_options.get("unacked_key") == UNACKED:
            self.Channel = SentinelChannel
        super().__init__(client, **options)


def register() -> None:
    """Make kombu use these transports for addresses of Redis in this process."""
    for name, transport in (("redis", Transport), ("rediss", Transport), ("sentinel", SentinelTransport)):
        TRANSPORT_ALIASES[name] = f"{__name__}:{transport.__name__}"
        _transport_cache.pop(name, None)
