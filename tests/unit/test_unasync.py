"""The sync queue is what the generator makes of the asyncio one."""

from __future__ import annotations

import inspect

import pytest

from sendq.async_queue import AsyncSendQueue
from sendq.queue import SendQueue
from tests.support.unasync import FILES, PACKAGE, sync_source

SOURCE = PACKAGE / "async_queue.py"


class TestTheSyncQueue:
    @pytest.mark.parametrize("path", FILES)
    def test_is_what_the_generator_writes(self, path: str) -> None:
        source = (PACKAGE / path).read_text(encoding="utf-8")
        assert (PACKAGE / FILES[path]).read_text(encoding="utf-8") == sync_source(source, path), "./dev generate"

    def test_has_the_methods_and_signatures_of_the_asyncio_one(self) -> None:
        methods = [name for name, _ in inspect.getmembers(SendQueue, inspect.isfunction) if not name.startswith("_")]
        assert "send" in methods
        for name in methods:
            sync, asynchronous = getattr(SendQueue, name), getattr(AsyncSendQueue, name)
            assert inspect.signature(sync) == inspect.signature(asynchronous)
            assert inspect.getdoc(sync) == inspect.getdoc(asynchronous)
            assert inspect.iscoroutinefunction(asynchronous)
            assert not inspect.iscoroutinefunction(sync)


class TestTheGenerator:
    def test_refuses_asyncio_that_no_rule_replaces(self) -> None:
        source = SOURCE.read_text(encoding="utf-8") + "\nasync with everything:\n    pass\n"
        with pytest.raises(ValueError, match="no rule replaces"):
            sync_source(source, SOURCE.name)

    def test_refuses_a_source_that_a_rule_does_not_fit(self) -> None:
        source = SOURCE.read_text(encoding="utf-8").replace("of yours.", "")
        with pytest.raises(ValueError, match="nothing that matches"):
            sync_source(source, SOURCE.name)
