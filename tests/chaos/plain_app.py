"""An application that sends mail with plain Celery: the other side of the comparison.

It follows the recommendations for not losing work: late acknowledgement, messages of lost workers rejected, a
visibility timeout far above the duration of a task with its sweep in time, prefetch 1, a pooled client with timeouts,
retries with backoff. ``PLAIN_KEYED`` adds an ``Idempotency-Key`` to each mail, which few applications do.
"""

from __future__ import annotations

import json
import os
from typing import Any

import urllib3
from celery import Celery, Task

VISIBILITY_S = 30

app = Celery("plain", broker=os.environ["PLAIN_BROKER"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_pool_limit=100,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_keepalive": True,
    },
)

_http = urllib3.PoolManager(maxsize=50, retries=False, timeout=urllib3.Timeout(connect=10, read=150))


class Unavailable(Exception):
    """The API asks for a later retry."""


@app.task(
    name="plain.send",
    bind=True,
    autoretry_for=(Unavailable, urllib3.exceptions.HTTPError),
    retry_backoff=1,
    max_retries=8,
)
def send(_task: Task, number: str, grant: str, message: dict[str, Any]) -> None:
    """Send one mail."""
    headers = {"Authorization": f"Bearer {os.environ['NYLAS_API_KEY']}", "Content-Type": "application/json"}
    if "PLAIN_KEYED" in os.environ:
        headers["Idempotency-Key"] = number
    body = json.dumps({**message, "metadata": {"key1": number}}).encode()
    answer = _http.request(
        "POST", f"{os.environ['NYLAS_API_URI']}/v3/grants/{grant}/messages/send", body=body, headers=headers
    )
    if answer.status == 429 or answer.status >= 500:
        raise Unavailable(f"status {answer.status}")
    if answer.status >= 400:
        raise RuntimeError(f"refused with status {answer.status}")
