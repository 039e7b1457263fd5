"""Whether the worker in this container lives: its last beat in the ledger, by the clock that wrote it.

Asked every half minute by docker-compose.yml, so it costs one small query and no Celery: a `celery inspect ping` would
load the whole application and travel through the broker, and say nothing of the event loop that makes the calls.

A ledger that is away is no reason to call a worker ill: it keeps the outcomes that it could not record yet,
and whoever restarts it for its health loses them.
"""

from __future__ import annotations

import os
import socket
import sys
import time

import psycopg

# A worker beats every 2 s and is taken for dead after 8 s of silence. A busy machine may be late; twice that is an end.
SILENCE_S = 16.0

QUESTION = "SELECT max(beat_at) FROM sendq_worker WHERE starts_with(name, %s)"


def silence(url: str, host: str) -> float | None:
    """Seconds since the last beat of the workers on ``host``; None if there are none.

    ``url`` is the ledger's, on PostgreSQL. Raises ``psycopg.Error``.
    """
    scheme, _, rest = url.partition("://")
    with psycopg.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=3) as ledger:
        row = ledger.execute(QUESTION, (f"{host}:",)).fetchone()  # a worker is called host:pid
    return None if row is None or row[0] is None else time.time() - row[0] / 1_000_000


def main() -> int:
    """Exit status 0 if it lives or the ledger is away, else 1."""
    try:
        silent = silence(os.environ["DATABASE_URL"], socket.gethostname())
    except psycopg.OperationalError:
        sys.stdout.write("the ledger is away\n")
        return 0
    except psycopg.Error as error:
        sys.stdout.write(f"the ledger cannot answer ({type(error).__name__})\n")
        return 1
    if silent is None:
        sys.stdout.write("no worker of this container has a row in the ledger\n")
        return 1
    sys.stdout.write(f"last beat {silent:.0f} s ago\n")
    return 0 if silent <= SILENCE_S else 1


if __name__ == "__main__":
    sys.exit(main())
