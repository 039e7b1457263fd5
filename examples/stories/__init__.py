"""Recorded runs of bad days, as the command line shows them.

Each story is a program: a ledger, a Redis, a worker process and the simulator really run, and what the page shows is
what the commands printed. `page` is what is written down, `play` runs one; the other modules are the stories.
"""
