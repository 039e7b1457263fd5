"""Worker processes: the Celery application, and everything that runs in one of them."""

from sendq_worker import require

require()  # before anything imports `settings` or `tasks`, which may be an application's
