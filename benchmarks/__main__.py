"""``./dev bench`` lists the benchmarks; ``./dev bench NAME [OPTIONS]`` runs one."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = {
    "attachments": "memory of one worker with fifty large files in flight",
    "bulk": "100,000 modifications in one call, and their cancellation: time, CPU and memory of the caller",
    "fairness": "what quiet lanes notice of busy and hanging ones, and how well the providers' limits are kept",
    "peers": "sendq beside Celery, Dramatiq, Taskiq, BullMQ and others: jobs a second, CPU, memory, latency",
    "latency": "commit to wire while the system is idle, and what idleness costs",
    "scale": "cost per dispatched job with up to ten million waiting ones; two workers; retention; many writers",
    "telling": "CPU per attempt of what tells of it: journal, metrics, Flower, Sentry",
}


def main(arguments: list[str]) -> int:
    """Exit status 2 for a benchmark that does not exist, else the benchmark's own."""
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
