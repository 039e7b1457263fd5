"""How Celery is configured, and why.

Celery carries ids of turns and runs the workers; the ledger keeps time and truth. So a message is acknowledged before
it runs, never retried, never scheduled, has no result, and what the broker loses is handed out again from the ledger.

Names of our own for everything in Redis that Celery shares by default, so that an application's own Celery can live in
the same database: its queue, but also the list of unacknowledged messages (else whichever of the two has the shorter
visibility timeout restores the other's) and the exchange for remote control (else ``celery control shutdown`` of one
ends the workers of both).
"""

from __future__ import annotations

from typing import Any

from settings.model import Settings

QUEUE = "sendq"

# What other applications enqueue by name waits apart from turns: a flood of it, or a ledger that is away, delays none.
ENQUEUE_QUEUE = "sendq.enqueue"

# Only what a dead worker had taken and not yet started is restored after this long, and by then the ledger has handed
# it out again: the copies claim nothing. Long, so that no message that waits its turn in a live worker is doubled.
VISIBILITY_TIMEOUT_S = 3600

# A Redis that freezes (a suspended machine, a lost route) otherwise holds a publisher for ever.
SOCKET_TIMEOUT_S = 5.0


def _queues(settings: Settings) -> tuple[str, ...]:
    """The queues that a worker takes messages from."""
    return (QUEUE, ENQUEUE_QUEUE) if settings.enqueue_task else (QUEUE,)


def celery_config(settings: Settings) -> dict[str, Any]:
    """The configuration of the Celery application; raises ``SettingsError`` if there is no broker."""
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_limit": 500,  # restoring blocks the worker's loop for 1.5 ms a message
            "unacked_key": f"{QUEUE}.unacked",
            "unacked_index_key": f"{QUEUE}.unacked_index",
            "unacked_mutex_key": f"{QUEUE}.unacked_mutex",
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": 2.0,
            "socket_keepalive": True,
            "health_check_interval": 25,  # s; below the minute after which firewalls drop idle connections
            "client_name": "sendq",
        },
        # Every thread may hold a connection at once (to acknowledge), beside the dispatcher and the events.
        "broker_pool_limit": settings.threads + 10,
        # A worker outlives its broker: it waits for as long as it takes, also for one that is out of memory.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # A publisher does not wait: the dispatcher comes round again by itself.
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
        "worker_enable_prefetch_count_reduction": False,  # else fewer after each reconnection
        "worker_disable_rate_limits": True,  # the pace is the lane's
        # Threads cannot be cancelled: True would only be noise here.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": settings.send_events,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
    }
