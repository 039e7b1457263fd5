"""The shop's own Celery application, with the task that hears of outcomes."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop", broker=os.environ["SHOP_BROKER"])
app.conf.task_default_queue = "shop"


@app.task(name="shop.tasks.mail_outcome")
def mail_outcome(outcome: dict[str, Any]) -> None:
    """Receive the outcome of a mail. It may be delivered twice; the second time changes nothing."""
    from .models import Invoice  # only once Celery has set Django up

    newer = Invoice.objects.filter(job_id=outcome.get("job_id"), sequence__lt=outcome["sequence"])
    newer.update(outcome=outcome["kind"], sequence=outcome["sequence"])
