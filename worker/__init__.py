"""The processes: the Celery application, and everything of sendq's in one worker process."""
