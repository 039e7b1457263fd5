"""Delivering outcomes to applications: signed webhooks and tasks of other Celery applications."""
