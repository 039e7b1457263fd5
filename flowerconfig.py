"""Flower's configuration, for `celery -A worker flower` (here, in the image, and by `sendq up --flower`).

The columns of its task list: `kwargs` shows the job's grant, `result` the rule that decided
(`worker.telemetry.flower_events`).
"""

tasks_columns = "name,uuid,state,kwargs,result,runtime,received,worker"
