"""Deliver one outcome to one receiver: a signed webhook, or a task of another Celery application.

Neither raises because of a network or a receiver, takes longer than its limit, follows redirects, or reads more of an
answer than it needs. Errors never quote the receiver.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
from celery import Celery
from sqlalchemy import Row
from yarl import URL

from sendq import clock, outcomes
from sendq.enqueueing.targets import EndpointTarget, TaskTarget, UrlTarget, allows, parse_target
from sendq.errors import Problem
from sendq.ledger.deliveries import DeliveryAttempt
from settings import Settings
from settings.brokers import broker_config
from tasks.calling.nylas import USER_AGENT
from tasks.policy.waits import stated_wait
from worker.notifying.notification import Notifications

# Concurrent deliveries per receiver.
CALLS_EACH = 4

# This much of an answer is read, to keep its connection; the content is ignored.
ANSWER_MOST = 16 * 1024

# Statuses that concern the receiver rather than this outcome: others would get the same answer.
NOT_THERE = frozenset({401, 403, 404, 405, 407, 410, 429, 502, 503, 504}) | frozenset(range(300, 400))

# A broker that does not answer within this is down. Waiting for it blocks threads of other tasks, not webhooks.
BROKER_S = 2.0
OUTCOME_TRANSPORT = {
    "socket_timeout": BROKER_S,
    "socket_connect_timeout": BROKER_S,
    "socket_keepalive": True,
    "client_name": "sendq-outcomes",
}


@dataclass(frozen=True, slots=True)
class _Address:
    url: str
    secret: str


class Receivers:
    """All receivers, for one event loop. Call `close` there."""

    def __init__(self, settings: Settings, notifications: Notifications) -> None:
        self._settings, self._notifications = settings, notifications
        self._session: aiohttp.ClientSession | None = None
        self._broker = _celery(settings)
        self._publishers = ThreadPoolExecutor(CALLS_EACH, thread_name_prefix="sendq-outcomes")

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        self._publishers.shutdown(wait=False, cancel_futures=True)
        if self._broker is not None:
            self._broker.close()

    async def deliver(self, row: Row[Any]) -> DeliveryAttempt:
        """Make one delivery."""
        target = parse_target(row.target)
        if isinstance(target, Problem):
            # Its receiver may be that of others, too, which are not held for it.
            return DeliveryAttempt(row.id, f"this version does not deliver to it: it {target.reason}")
        timestamp = int(time.time())
        body = self._notifications.body(row, timestamp=timestamp)
        if isinstance(target, TaskTarget):
            if self._broker is not None and not self._allows(target, row.target):
                return DeliveryAttempt(row.id, "SENDQ_OUTCOME_TASKS does not allow this task and queue")
            # Without the caller's key, which may say whom the mail is for: no content passes through a broker.
            return await self._publish(target, {**body, "key": None} if "key" in body else body, row.id)
        address = self._address(target)
        if isinstance(address, str):
            return _unreachable(row.id, address)
        return await self._post(address, body, row.id, timestamp)

    def _allows(self, target: TaskTarget, name: str) -> bool:
        """Anyone who enqueues names a task; the operator's own receiver needs no entry in the list."""
        return allows(self._settings.outcome_tasks, target) or name == self._settings.on_reauth

    def _address(self, target: EndpointTarget | UrlTarget) -> _Address | str:
        """Address and secret, or why there is none: jobs may only choose among the targets that the settings allow."""
        s = self._settings
        common = s.outcome_secret
        if isinstance(target, EndpointTarget):
            endpoint = s.outcome_endpoints.get(target.name)
            if endpoint is None:
                return "SENDQ_OUTCOME_ENDPOINTS has no such endpoint"
            secret = endpoint.secret or common
            url = endpoint.url.get_secret_value()
        else:
            if target.host not in s.outcome_hosts:
                return "the host is not in SENDQ_OUTCOME_HOSTS"
            secret, url = common, target.url
        assert secret is not None  # validated by the settings
        return _Address(url, secret.get_secret_value())

    async def _post(
        self, address: _Address, body: Mapping[str, Any], event_id: UUID, timestamp: int
    ) -> DeliveryAttempt:
        raw = json.dumps(body).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            outcomes.ID: str(event_id),
            outcomes.TIMESTAMP: str(timestamp),
            outcomes.SIGNATURE: outcomes.sign(raw, event_id=str(event_id), timestamp=timestamp, secret=address.secret),
        }
        try:
            async with self._opened_session().post(
                URL(address.url, encoded=True), data=raw, headers=headers, allow_redirects=False
            ) as answer:
                if 200 <= answer.status < 300:
                    await _read_some(answer)
                    return DeliveryAttempt(event_id)
                answer.close()
                return _answered(event_id, answer.status, answer.headers)
        except TimeoutError:
            return _unreachable(event_id, f"no answer within {self._settings.outcome_timeout_s:g} s")
        except aiohttp.ClientConnectorCertificateError:
            return _unreachable(event_id, "its certificate is not trusted")
        except aiohttp.ClientConnectorError:
            return _unreachable(event_id, "no connection")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _unreachable(event_id, f"the connection broke ({type(error).__name__})")

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._settings.outcome_timeout_s),
                connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # the content is ignored
            )
        return self._session

    async def _publish(self, target: TaskTarget, body: Mapping[str, Any], event_id: UUID) -> DeliveryAttempt:
        broker = self._broker
        if broker is None:
            return _unreachable(event_id, "SENDQ_OUTCOME_BROKER_URL is not set")

        def publish() -> None:
            # The event's id as task id: a repeated delivery has the same task id. Flower shows only the id.
            broker.send_task(
                target.task,
                args=[body],
                queue=target.queue,
                task_id=str(event_id),
                argsrepr=f"('{body['kind']} {event_id}',)",
                retry=False,
                ignore_result=True,
            )

        try:
            await asyncio.get_running_loop().run_in_executor(self._publishers, publish)
        except Exception as error:  # whatever the broker's client raises
            if "WRONGTYPE" in str(error):  # only this queue: others are not held for it
                return DeliveryAttempt(event_id, "its queue is a key of another type in the broker")
            return _unreachable(event_id, f"its broker cannot be reached ({type(error).__name__})")
        return DeliveryAttempt(event_id)


def _celery(settings: Settings) -> Celery | None:
    """A Celery application that can only publish, for the other application's broker."""
    if settings.outcome_broker_url is None:
        return None
    app = Celery("sendq-outcomes", set_as_current=False, fixups=set())
    app.conf.update(
        **broker_config(settings.outcome_broker_url.get_secret_value(), OUTCOME_TRANSPORT),
        broker_pool_limit=CALLS_EACH,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_publish_retry=False,
    )
    return app


async def _read_some(answer: aiohttp.ClientResponse) -> None:
    """Read to the end if it is short, so that the connection can be reused. Errors here do not matter any more."""
    try:
        size = 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > ANSWER_MOST:
                answer.close()
                return
    except (aiohttp.ClientError, TimeoutError, OSError):
        answer.close()


def _answered(event_id: UUID, status: int, headers: Mapping[str, str]) -> DeliveryAttempt:
    wait = stated_wait({"retry-after": headers.get("retry-after", "")}, "", now=time.time())
    return DeliveryAttempt(event_id, f"status {status}", unreachable=status in NOT_THERE, wait=clock.seconds(wait or 0))


def _unreachable(event_id: UUID, error: str) -> DeliveryAttempt:
    return DeliveryAttempt(event_id, error, unreachable=True)
