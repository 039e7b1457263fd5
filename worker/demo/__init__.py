"""The demo: the whole system for half a minute, on this machine only.

Only the API is simulated: there is a ledger on SQLite, a Redis, a Celery worker in its own process, and the simulator
on a real socket. `story` defines the jobs and failures, `stage` starts the processes, `scene` shows the progress,
`summary` compares the results at the end, and `run` runs it all.
"""
