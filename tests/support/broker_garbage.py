"""What may lie in the broker's keys and is no message of sendq's: for the tests of everything that reads them."""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Iterator
from typing import Any

HEADERS: dict[str, Any] = {"id": "1", "task": "sendq.bundle", "lang": "py", "root_id": "1"}
NO_IDS: tuple[Any, ...] = ([], {}, 7, "", "x" * 10_000, "a\nb", "\ud800")


def encoded(body: Any) -> str:
    """The body of a message, as Celery writes it."""
    return base64.b64encode(json.dumps(body).encode()).decode()


def message(**changes: Any) -> dict[str, Any]:
    """A message like those of sendq: a bundle without turns. ``changes`` replace its parts."""
    return {
        "body": encoded([[[]], {}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": HEADERS,
        "properties": properties(),
    } | changes


def properties(**changes: Any) -> dict[str, Any]:
    """The properties of `message`."""
    delivery = {"exchange": "", "routing_key": "sendq"}
    return {"delivery_tag": "t", "body_encoding": "base64", "delivery_info": delivery, "priority": 0} | changes


def bomb() -> dict[str, Any]:
    """A message of 519 kB whose body unpacks to 400 MB."""
    part, parts = b" " * 4_000_000, 100
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(part) + deflate.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it: can be repeated
    check = 1
    for _ in range(parts):
        check = zlib.adler32(part, check)
    packed = b"\x78\x9c" + parts * packed + b"\x03\x00" + check.to_bytes(4, "big")
    headers = HEADERS | {"compression": "application/x-gzip"}
    return message(body=base64.b64encode(packed).decode(), headers=headers)


def unreadable() -> Iterator[bytes]:
    """Items that must not reach Celery."""
    yield from (
        b"text",
        b"[]",
        b"1",
        b"null",
        b'""',
        b"{}",
        b"true",
        b"\x00\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    )
    yield from (b'{"__type__": "uuid", "__value__": 7}', b'{"__type__": "datetime", "__value__": {}}', b"9" * 10_000)
    infos: list[Any] = [None, [], "x", {}, {"exchange": ""}, {"exchange": [], "routing_key": {}}]
    encodings: list[Any] = ["base65", "gzip", 7, [], {}]
    priorities: list[Any] = [float("inf"), "high", [], True]
    wrong: dict[str, list[Any]] = {
        "properties": [
            None, [], "x", {},
            *(properties(delivery_tag=tag) for tag in (None, *NO_IDS)),
            *(properties(delivery_info=info) for info in infos),
            *(properties(body_encoding=name) for name in encodings),
            *(properties(priority=value) for value in priorities),
        ],
        "headers": [
            [], "x", 7, {"compression": "gzip"}, *({"task": "sendq.bundle", "id": value} for value in (None, *NO_IDS)),
        ],
        "body": [None, [], 7, {}, "~", "é", "A", "A" * 2_000_000],
        "content-type": [None, "application/x-python-serialize", "application/data", []],
        "content-encoding": [[], {}, 7],
    }  # fmt: skip
    yield from (json.dumps(message(**{part: value})).encode() for part, values in wrong.items() for value in values)


def odd() -> Iterator[bytes]:
    """Messages in the right envelope with another content than sendq's."""
    headers: list[dict[str, Any]] = [
        {}, {"task": None}, {"task": []}, {"task": {}}, {"task": 7}, {"task": "x" * 100_000}, {"task": "no.such.task"},
        {"task": "sendq.enqueue"}, {"task": "celery.map"}, {"task": "celery.chord_unlock"}, {"task": "celery.group"},
        {"expires": "soon"}, {"expires": []},
        {"expires": "0001-01-01T00:00:00Z"}, {"timelimit": 7}, {"timelimit": ["a", "b"]}, {"retries": "x"},
        {"shadow": []}, {"argsrepr": 7}, {"group": []}, {"stamps": 7, "stamped_headers": 7}, {"ignore_result": "x"},
        {"root_id": []}, {"parent_id": {}}, {"origin": []}, {"lang": []}, {"meth": []}, {"redelivered": []},
    ]  # fmt: skip
    ids = itertools.count()  # one that is revoked, as what has expired is, is not carried out again

    def named(change: dict[str, Any]) -> dict[str, Any]:
        return HEADERS | {"id": f"odd {next(ids)}"} | change

    for change in headers:
        yield json.dumps(message(headers=named(change) if change else {})).encode()
    bodies: list[Any] = [
        None, [], {}, 7, "text", [[]], [[], {}], [[], {}, {}, {}], [{}, [], {}], ["abc", "def", "ghi"], [[[]], [], []],
        [[[[1, 2, 3]]], {}, {}], [[[["0" * 32, "x", []]]], {}, {}], [[["x"] * 50_000], {}, {}], [[], {"turns": []}, {}],
        [["x" * 500_000], {}, {}], [[[]], {"x" * 1_000: 1}, {}], [[[]], {}, {"callbacks": [7]}],
        [[[]], {}, {"chain": 7}],
        [[[]], {}, {"errbacks": [{}]}], [[[]], {}, {"chord": {"task": "x"}}], {"task": "sendq.bundle"},
        {"task": "sendq.bundle", "id": "1", "args": [], "kwargs": {}}, {"task": "sendq.bundle", "args": 7},
    ]  # fmt: skip
    for body in bodies:
        yield json.dumps(message(body=encoded(body), headers=named({}))).encode()
        yield json.dumps(message(body=encoded(body), headers={})).encode()
    for raw in (b"\xff", b"[" * 100_000, b"", b"9" * 10_000):
        yield json.dumps(message(body=base64.b64encode(raw).decode(), headers=named({}))).encode()
    yield json.dumps(message(headers=None)).encode()
