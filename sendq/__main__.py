"""The package's own command line: ``python -m sendq migrate``.

It reads ``DATABASE_URL`` from the environment, the default of ``--url``; nothing else in the package reads the
environment. All other commands are in the workers' command line, ``sendq``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sqlalchemy import exc

from sendq.errors import SendqError
from sendq.ledger.db import migrate
from sendq.ledger.db.causes import NO_RIGHT
from sendq.ledger.db.engine import cause_of

USAGE_ERROR = 2
ELSEWHERE = "all other commands come with the workers: pip install sendq-worker, in an environment of its own"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 2 with a message on stderr if it failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    url = given.url or os.environ.get("DATABASE_URL", "")
    if not url:
        return _complain("no database given; use --url or set DATABASE_URL")
    try:
        if given.sql:
            sys.stdout.write(migrate.sql(url))
        else:
            sys.stdout.write(_report(migrate.run(url), as_json=given.json))
    except (SendqError, ValueError) as error:
        denied = error.__cause__
        if isinstance(denied, exc.DBAPIError) and cause_of(denied) is NO_RIGHT:
            return _complain_of(denied)  # the advice is about rows, and what is missing is the right to create tables
        return _complain(str(error))
    except exc.DBAPIError as error:
        return _complain_of(error)
    return 0


def _complain_of(error: exc.DBAPIError) -> int:
    return _complain(f"the database reported: {str(error.orig).strip().splitlines()[0]}")


def _report(done: migrate.Upgrade, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(dataclasses.asdict(done)) + "\n"
    if not done.applied:
        return f"the ledger's schema is already {done.after}; nothing to do\n"
    return f"applied {', '.join(done.applied)}; the ledger's schema is now {done.after}\n"


def _complain(sentence: str) -> int:
    sys.stderr.write(f"sendq: {sentence}\n")
    return USAGE_ERROR


class _Parser(argparse.ArgumentParser):
    """Its error message says where the workers' commands are."""

    def error(self, message: str) -> NoReturn:
        if "COMMAND" in message:
            message += f"; {ELSEWHERE}"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sendq", description="The commands of sendq for web applications.", epilog=f"{ELSEWHERE}."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    command = commands.add_parser(
        "migrate",
        help="bring the ledger's tables in a database up to date",
        description="Bring the ledger's tables in a database up to date. Safe to run again, and concurrently.",
    )
    command.add_argument(
        "--url",
        help="the database: postgresql://user@host/name or sqlite:///path (default: the variable DATABASE_URL)",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--sql", action="store_true", help="only print the SQL statements, without connecting")
    form.add_argument("--json", action="store_true", help="print the result as a JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
