"""``./dev bench`` lists the benchmarks; ``./dev bench NAME [OPTIONS]`` runs one."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = {
    "attachments": "memory of one worker with fifty large files in flight",
    "bulk": "100,000 modifications in one call, and their cancellation: time, CPU and memory of the caller",
    "clients": "HTTP clients for Python: CPU of a call, and whether a cancelled call is over",
    "console": "time per page of the console on a large ledger, and the cost of a page that is left open",
    "fairness": "the effect of busy and hanging lanes on quiet ones, and how well the providers' limits are kept",
    "peers": "sendq compared with Celery, Dramatiq, Taskiq, BullMQ and others: jobs per second, CPU, memory, latency",
    "ordinary": "sendq beside others when jobs come one by one, 10 to 150 a second: latency, CPU per job",
    "merge": "mail merge of 100,000 recipients, `send_many` and single sends: CPU, time and memory of the caller",
    "leader": "turns per second of one dispatcher, by number of lanes",
    "latency": "commit to call on an idle system, and the cost of idling",
    "scale": "cost per dispatched job with up to ten million waiting; two workers; retention; many writers",
    "storage": "WAL, commits, dead rows and index writes per job; size and cost while retention is at work",
    "undo": "50,000 changes and their undo, and whether every message is as before",
    "telemetry": "CPU per attempt of logs, metrics, Flower events and Sentry traces",
}


def main(arguments: list[str]) -> int:
    """Exit status 2 for an unknown benchmark, otherwise the benchmark's own."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: ./dev bench NAME [OPTIONS]   (--help after a name shows its options)\n")
        for name, measures in NAMES.items():
            print(f"  {name:<15} {measures}")
        return 0
    name, *options = arguments
    if name not in NAMES:
        print(f"no benchmark {name!r}; ./dev bench lists them", file=sys.stderr)
        return 2
    status: int = import_module(f"benchmarks.{name.replace('-', '_')}").main(options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
