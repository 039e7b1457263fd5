"""What is logged at which level."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from settings import Settings
from settings.logs import PER_MESSAGE, start_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give the root logger its handlers and level back, and Celery's loggers theirs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in PER_MESSAGE}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.parametrize("name", ["celery.worker.strategy", "celery.app.trace"])
@pytest.mark.parametrize(("level", "written"), [("INFO", False), ("DEBUG", True), ("ERROR", False)])
def test_celery_writes_no_line_for_each_message(name: str, level: str, written: bool) -> None:
    stream = io.StringIO()
    start_logs(Settings.load({"SENDQ_LOG_LEVEL": level}), stream)
    logging.getLogger(name).info("Task received")
    assert ("Task received" in stream.getvalue()) is written
    logging.getLogger(name).error("Task failed")
    assert "Task failed" in stream.getvalue()
