"""Celery's configuration on a real Redis that an application's own Celery uses too."""

from __future__ import annotations

from celery import Celery

from settings import Settings
from settings.celery import celery_config
from tests.support.waiting import LIMIT_S
from worker.redis.embedded import redis_client


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
