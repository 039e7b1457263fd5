"""What Flower reads when it is started here: `celery -A worker flower` (also in the image, and by `sendq up --flower`).

The columns of its list of tasks: `kwargs` is the job's grant, `result` the rule that decided
(`worker.telemetry.flower_events`).
"""

tasks_columns = "name,uuid,state,kwargs,result,runtime,received,worker"
