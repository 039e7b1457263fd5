"""What sealed rows are bound to: each field counts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from sendq import bindings
from sendq.bindings import File

ONE, OTHER = UUID(int=1), UUID(int=2)
FILES = [File(b"a" * 32, 1), File(b"b" * 32, 2)]

# Arguments of each context, and another value for each.
FIELDS: dict[Callable[..., bytes], dict[str, tuple[Any, Any]]] = {
    bindings.payload_context: {
        "job_id": (ONE, OTHER), "lane_id": (ONE, OTHER), "batch_id": (None, OTHER), "operation": ("send", "list"),
        "form": ("json", "multipart"), "object_id": (None, "m1"), "content_type": ("application/json", "text/html"),
        "length": (None, 10), "files": (FILES, FILES[::-1]),
    },
    bindings.batch_context: {
        "batch_id": (ONE, OTHER), "lane_id": (ONE, OTHER), "operation": ("modify", "delete"),
        "target": ("message", "thread"), "hard": (False, True), "fields": (1, 2), "content_type": ("a/b", "a/c"),
    },
    bindings.tag_context: {
        "batch_id": (ONE, OTHER), "lane_id": (ONE, OTHER), "operation": ("modify", "delete"), "object_id": ("m1", "m2"),
    },
    bindings.snapshot_context: {
        "batch_id": (ONE, OTHER), "lane_id": (ONE, OTHER), "object_id": ("m1", "m2"), "when": ("before", "after"),
    },
    bindings.piece_context: {"job_id": (ONE, OTHER), "position": (0, 1), "digest": (b"a" * 32, b"b" * 32)},
    bindings.chunk_context: {"file": (FILES[0], FILES[1]), "position": (0, 1)},
    bindings.key_context: {"application": ("a", "b"), "key": ("k", "l"), "target": (ONE, OTHER)},
    bindings.delivery_context: {"delivery_id": (ONE, OTHER)},
    bindings.secret_context: {"name": ("a", "b")},
}  # fmt: skip


class TestAContext:
    @pytest.mark.parametrize("context", FIELDS, ids=lambda one: one.__name__)
    def test_differs_with_every_field(self, context: Callable[..., bytes]) -> None:
        fields = FIELDS[context]
        assert list(inspect.signature(context).parameters) == list(fields)
        usual = {name: value for name, (value, _) in fields.items()}
        others = [context(**usual | {name: other}) for name, (_, other) in fields.items()]
        assert len({context(**usual), *others}) == 1 + len(fields)

    def test_differs_with_every_part_of_a_file(self) -> None:
        size, digest = File(FILES[0].digest, 9), File(b"c" * 32, FILES[0].size)
        assert len({bindings.chunk_context(file, 0) for file in (FILES[0], size, digest)}) == 3

    def test_is_tried_here_whatever_its_kind(self) -> None:
        contexts = {one for name, one in vars(bindings).items() if name.endswith("_context")}
        assert contexts == FIELDS.keys()

    def test_is_of_one_kind(self) -> None:
        usual = [context(**{name: one for name, (one, _) in FIELDS[context].items()}) for context in FIELDS]
        assert len({json.loads(one)[0] for one in usual}) == len(usual)
