"""Worker processes: the Celery application, and everything that runs in one of them."""
