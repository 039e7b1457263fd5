"""``python -m tests.support.controlled``: the worker, which also obeys the commands that start and stop its consumer.

So a test can have a worker that dispatches and reads nothing. In production these commands are refused.
"""

from __future__ import annotations

from worker import __main__ as worker
from worker import remote_control

remote_control.READS |= {"add_consumer", "cancel_consumer"}

if __name__ == "__main__":
    worker.main()
else:  # for `celery -A tests.support.controlled control`
    from worker.celery import app

    __all__ = ["app"]
