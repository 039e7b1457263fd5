"""Recorded runs: what happens on a bad day, as the command line tells it.

Each story is a program: a ledger, a Redis, a worker process and the simulator really run, and what the page shows is
what the commands printed. `page` is what is written down, `play` runs one; the other modules are the stories.
"""
