"""Celery's configuration on a real Redis that an application's own Celery uses too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from celery import Celery

from settings import Settings
from settings.celery import celery_config
from tests.support.waiting import LIMIT_S
from worker.doctor.check import check
from worker.redis.embedded import redis_client


class TestTheVariablesOfAnotherCeleryApplication:
    @pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/5", "amqp://guest@127.0.0.1:1//"])
    def test_do_not_move_a_worker_to_its_broker(self, redis_url: str, broker: str) -> None:
        """Celery itself prefers these variables to what its application is configured with."""
        theirs = ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"]
        environ = dict.fromkeys(theirs, broker) | {
            "CELERY_LOADER": "no.such:Loader", "CELERY_CUSTOM_WORKER_POOL": "no.such:Pool",
            "CELERY_WORKER_CONCURRENCY": "77", "DJANGO_SETTINGS_MODULE": "no.such.settings",
        }  # fmt: skip
        ask = (
            "from worker.celery import app; app.finalize();"
            "print([app.connection_for_read().as_uri(), app.connection_for_write().as_uri(), app.conf.result_backend])"
        )
        done = subprocess.run(
            [sys.executable, "-c", ask],
            env=os.environ | environ | {"REDIS_URL": redis_url, "DATABASE_URL": "sqlite:///unused.db"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        address = redis_url.partition("?")[0]
        assert done.stdout.strip() == str([address, address, None])
        (line,) = [line for line in done.stderr.splitlines() if "CELERY_BROKER_URL" in line]
        assert "are ignored: sendq's broker is REDIS_URL" in line
        (item,) = [item for item in check(environ) if item.state == "warn" and item.name == "settings"]
        assert "CELERY_BROKER_URL" in item.says


class TestTwoCelerysOnOneRedis:
    def test_share_no_list_of_unacknowledged_messages(self, redis_url: str) -> None:
        """Else the one with the shorter visibility timeout hands out the other's messages again."""
        ours = Celery("ours", set_as_current=False, config_source=celery_config(Settings(redis_url=redis_url)))
        theirs = Celery("theirs", set_as_current=False, broker=redis_url)
        for app in (ours, theirs):
            app.send_task("anything", args=[1])
        with redis_client(redis_url) as client:
            assert client.llen("sendq") == client.llen("celery") == 1
            with ours.connection() as connection, connection.SimpleQueue("sendq") as queue:
                message = queue.get(timeout=LIMIT_S)
                assert (client.hlen("sendq.unacked"), client.exists("unacked")) == (1, 0)
                message.ack()
            assert client.exists("sendq.unacked") == 0
        for app in (ours, theirs):
            app.close()

    def test_share_no_remote_control(self, redis_url: str) -> None:
        """Else `celery control shutdown` of one ends the workers of both."""
        ours = Celery("ours", set_as_current=False, config_source=celery_config(Settings(redis_url=redis_url)))
        theirs = Celery("theirs", set_as_current=False, broker=redis_url)
        assert ours.control.mailbox.namespace == "sendq"
        assert theirs.control.mailbox.namespace == "celery"
