"""The demo: the whole system at work for half a minute, on this machine alone.

Nothing in it is a mock but the API: a ledger on SQLite, a Redis, a Celery worker in a process of its own, and the
simulator on a real socket. `story` is what is enqueued and what goes wrong, `stage` what runs, `scene` what is seen,
`summary` the account at the end, and `run` plays it.
"""
