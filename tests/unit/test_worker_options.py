"""Celery's options that a worker cannot follow are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool

from settings.celery import QUEUE
from worker.options import argument_fault, option_fault


class TestTheOptions:
    @pytest.mark.parametrize(
        "options",
        [{}, {"pool": ThreadPool, "queues": None, "exclude_queues": []}, {"queues": [QUEUE], "pool": "threads"}],
    )
    def test_that_are_left_out_are_fine(self, options: dict[str, Any]) -> None:
        assert option_fault(options) is None

    @pytest.mark.parametrize("pool", ["gevent", "prefork", SoloPool])
    def test_of_another_pool_are_refused(self, pool: Any) -> None:
        assert str(option_fault({"pool": pool})).startswith("-P: a worker runs on threads alone")

    @pytest.mark.parametrize(
        "arguments", [["-P", "gevent"], ["-l", "info", "-Pprefork"], ["--pool=solo"], ["--pool", "eventlet", "-E"]]
    )
    def test_of_another_pool_are_refused_before_it_is_imported(self, arguments: list[str]) -> None:
        assert str(argument_fault(arguments)).startswith("-P: a worker runs on threads alone")

    @pytest.mark.parametrize("arguments", [[], ["-E"], ["-P", "threads"], ["--pool=threads"], ["-P"]])
    def test_that_name_no_other_pool_are_left_to_celery(self, arguments: list[str]) -> None:
        assert argument_fault(arguments) is None

    @pytest.mark.parametrize(
        "options",
        [{"queues": ["celery"]}, {"queues": "celery,high"}, {"queues": [QUEUE, "celery"]}, {"exclude_queues": [QUEUE]}],
    )
    def test_of_other_queues_are_refused(self, options: dict[str, Any]) -> None:
        said = str(option_fault(options))
        assert "reads the queue sendq and no other" in said
        assert "\n" not in said
