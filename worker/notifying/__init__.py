"""Telling applications about outcomes: signed webhooks and tasks of other Celery applications."""
