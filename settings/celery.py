"""How Celery is configured, and why.

Celery carries ids of turns and runs the workers; schedules and results are in the ledger. So a message is acknowledged
before it runs, never retried or scheduled, and has no result; what the broker loses is dispatched again from the
ledger.

Everything in Redis that Celery shares by default has its own name here, so that an application's Celery can use the
same database: the queue, the list of unacknowledged messages (otherwise the application with the shorter visibility
timeout restores the other's messages) and the exchange for remote control (otherwise ``celery control shutdown`` for
one stops the workers of both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from settings.brokers import broker_config
from settings.model import Settings

QUEUE = "sendq"

# Jobs that other applications enqueue by name have a queue of their own, so that neither a flood of them nor an
# unreachable ledger delays turns.
ENQUEUE_QUEUE = "sendq.enqueue"

# The task by which other Celery applications enqueue.
ENQUEUE = "sendq.enqueue"

# The hash of messages that a worker has received and not acknowledged.
UNACKED = f"{QUEUE}.unacked"

# Messages that a dead worker had received but not started are restored after this long. By then the ledger has
# dispatched their turns again, and the copies claim nothing. Long, so that no message waiting in a live worker is
# duplicated.
VISIBILITY_TIMEOUT_S = 3600

# Without it, a Redis that freezes (a suspended machine, a lost route) blocks a publisher for ever.
SOCKET_TIMEOUT_S = 5.0


# Of kombu's transport.
TRANSPORT = {
    "visibility_timeout": VISIBILITY_TIMEOUT_S,
    "unacked_restore_limit": 500,  # restoring blocks the worker's loop for 1.5 ms per message
    "unacked_key": UNACKED,
    "unacked_index_key": f"{UNACKED}_index",
    "unacked_mutex_key": f"{UNACKED}_mutex",
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": 2.0,
    "socket_keepalive": True,
    "health_check_interval": 25,  # s; below the minute after which firewalls drop idle connections
    "client_name": "sendq",
}


# Variables with these prefixes are read by Celery itself, where they override the configuration below: an application's
# CELERY_BROKER_URL in a worker's environment would move the worker to the application's broker.
FOREIGN = ("CELERY_", "CELERYD_")


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables of another Celery application that are not used here, sorted."""
    return sorted(name for name in environ if name.startswith(FOREIGN))


def why_ignored(names: Sequence[str]) -> str:
    """The sentence about `foreign_variables`."""
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} ignored: sendq's broker is REDIS_URL, and its other settings begin with SENDQ_"


def _queues(settings: Settings) -> tuple[str, ...]:
    """The queues that a worker takes messages from."""
    return (QUEUE, ENQUEUE_QUEUE) if settings.enqueue_task else (QUEUE,)


def celery_config(settings: Settings) -> dict[str, Any]:
    """The configuration of the Celery application; raises ``SettingsError`` if there is no broker."""
    return {
        **broker_config(settings.broker_url.get_secret_value(), TRANSPORT),
        # Every thread may hold a connection at once (to acknowledge), and so may the dispatcher and the events.
        "broker_pool_limit": settings.threads + 10,
        # A worker waits for its broker as long as it takes, also for one that is out of memory.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # No retry by the publisher: the dispatcher tries again in its next round.
        "task_publish_retry": False,
        "task_default_queue": QUEUE,
        "task_queues": {name: {"exchange": name, "routing_key": name} for name in _queues(settings)},
        "task_create_missing_queues": False,
        "control_exchange": QUEUE,
        "event_exchange": f"{QUEUE}ev",
        "event_queue_prefix": f"{QUEUE}ev",
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_pool": "threads",
        "worker_consumer": "worker.redis.unknown_messages:PatientConsumer",
        "worker_concurrency": settings.threads,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,  # otherwise it shrinks with each reconnection
        "worker_disable_rate_limits": True,  # lanes are paced instead
        # Threads cannot be cancelled: True would only log warnings.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": settings.task_events,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
    }
