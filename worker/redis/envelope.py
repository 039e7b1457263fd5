"""What a message in Redis must look like before Celery may see it.

kombu takes whatever lies in its keys for a message that kombu wrote, and anything else ends the worker; a few hundred
kilobytes of compressed body fill its memory. So an item is checked as bytes, before it is decoded.
"""

from __future__ import annotations

import base64
from typing import Any

from kombu.utils.json import dumps, loads

from settings.celery import ENQUEUE, ENQUEUE_QUEUE, QUEUE

# A bundle of 1,000 turns (the most that a setting allows) has 90 kB; a command of the remote control has 1 kB.
BYTES_MOST = 1_000_000

# One mail, in base64. Decoded JSON may take 24 times its size in memory: 150 MB for these.
ENQUEUE_BYTES_MOST = 8_000_000

ID_MOST = 100  # characters, of a message's id or its delivery tag; Celery's and kombu's are UUIDs


class Unreadable(ValueError):
    """The item is no message that a worker can read; the text says why, and quotes nothing of it."""


def message_of(item: bytes, queue: str) -> dict[str, Any]:
    """The message that ``item``, taken from ``queue``, encodes. Raises `Unreadable`."""
    payload: dict[str, Any] = decoded(item, queue)
    check(payload, queue)
    return payload


def decoded(item: bytes | str, queue: str) -> Any:
    """The JSON value of an item. Raises `Unreadable` if it is too long, or not JSON."""
    most = ENQUEUE_BYTES_MOST if queue == ENQUEUE_QUEUE else BYTES_MOST
    if len(item) > most:
        raise Unreadable(f"larger than {most} bytes")
    try:
        return loads(item)
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except Exception:  # kombu also builds dates, numbers and UUIDs, each of which may be wrong in its own way
        raise Unreadable("not JSON") from None


def check(payload: Any, queue: str) -> None:
    """Raise `Unreadable` unless ``payload`` has everything that kombu and Celery read from a message."""
    if not isinstance(payload, dict):
        raise Unreadable("not a message")
    properties, headers = payload.get("properties"), payload.get("headers")
    if not isinstance(properties, dict) or not isinstance(headers, dict | None):
        raise Unreadable("without properties or headers")
    headers = headers or {}
    if headers.get("compression"):
        raise Unreadable("compressed")
    if payload.get("content-type") != "application/json":
        raise Unreadable("its content type is not application/json")
    if not isinstance(payload.get("content-encoding"), str | None):
        raise Unreadable("its content encoding is not text")
    if "task" in headers and not _is_id(headers.get("id")):
        raise Unreadable("without an id")
    if queue == QUEUE and headers.get("eta"):
        raise Unreadable("it is to be kept in memory until a later time")  # no limit holds for such messages
    _check_properties(properties)
    _check_body(payload.get("body"), properties.get("body_encoding"))


def _check_properties(properties: dict[str, Any]) -> None:
    tag, delivery, priority = (properties.get(name) for name in ("delivery_tag", "delivery_info", "priority"))
    if not _is_id(tag):
        raise Unreadable("without a delivery tag")
    if not isinstance(delivery, dict) or not all(
        name in delivery and isinstance(delivery[name], str | None) for name in ("exchange", "routing_key")
    ):
        raise Unreadable("without delivery info")
    if isinstance(priority, bool) or not isinstance(priority, int | None):
        raise Unreadable("its priority is not a whole number")


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ID_MOST and value.isprintable()


def _check_body(body: Any, encoding: Any) -> None:
    if not isinstance(body, str):
        raise Unreadable("its body is not text")
    if encoding == "base64":
        try:
            base64.b64decode(body.encode("ascii"), validate=True)
        except ValueError:
            raise Unreadable("its body is not base64") from None
    elif encoding not in (None, "utf-8"):
        raise Unreadable("its body has an unknown encoding")


def unacknowledged(item: bytes, queues: frozenset[str]) -> tuple[dict[str, Any], str]:
    """The message and the queue of an entry in the hash of unacknowledged messages. Raises `Unreadable`."""
    value = decoded(item, ENQUEUE_QUEUE)
    if not isinstance(value, list) or len(value) != 3:
        raise Unreadable("not an unacknowledged message")
    payload, _exchange, queue = value
    if not isinstance(queue, str) or queue not in queues:
        if not _is_enqueue(payload):
            raise Unreadable("of no queue of ours")
        queue = ENQUEUE_QUEUE
    if len(item) > BYTES_MOST and queue != ENQUEUE_QUEUE:
        raise Unreadable(f"larger than {BYTES_MOST} bytes")
    check(payload, queue)
    return payload, queue


def _is_enqueue(payload: Any) -> bool:
    """Whether it is a call of our task by an application, which may have used an exchange and a routing key of its own
    that lead to our queue.
    """
    headers = payload.get("headers") if isinstance(payload, dict) else None
    return isinstance(headers, dict) and headers.get("task") == ENQUEUE


def as_item(payload: dict[str, Any]) -> str:
    """The item for a message, marked as delivered before."""
    payload["headers"] = {**(payload.get("headers") or {}), "redelivered": True}
    payload["properties"]["delivery_info"]["redelivered"] = True
    return str(dumps(payload))
