"""Parameters that several commands have: durations, times, rates, author and reason."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sendq import Window

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

# Longer is a mistake (hours taken for seconds), and near the end of the calendar adding to a time fails.
LONGEST = timedelta(days=366)

# Spelled out, so that --help needs no imports; a test compares them with the policy's.
# Of the console, unless another is given: not one that the simulator has in the guides.
CONSOLE_PORT = 8790
# Of the HTTP API, likewise.
API_PORT = 8791

PROVIDERS = ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas", "unknown")

_duration = re.compile(r"(?:\d{1,9}[smhd])+").fullmatch
_rate = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(?:/([smhd]))?").fullmatch


def duration(given: str) -> timedelta:
    """``90s``, ``30m``, ``2h``, ``1d``, ``1h30m``: at most `LONGEST`."""
    if not _duration(given):
        raise click.BadParameter("use a form like 90s, 30m, 2h, 1d or 1h30m")
    seconds = sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhd])", given))
    if not 0 < seconds <= LONGEST.total_seconds():
        raise click.BadParameter(f"use a duration from 1s to {LONGEST.days}d")
    return timedelta(seconds=seconds)


def time(given: str) -> datetime:
    """A time in ISO 8601 with its zone."""
    try:
        at = datetime.fromisoformat(given)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("use a form like 2026-07-01T09:00:00Z") from None
    raise click.BadParameter("add the time zone: Z or +02:00 at the end, like 2026-07-01T09:00:00Z")


def past(given: str) -> datetime:
    """A time, or a duration before now."""
    if _duration(given):
        return datetime.now(UTC) - duration(given)
    try:
        return time(given)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message}; or how long ago, like 30m or 2h") from None


def any_time(given: str) -> datetime:
    """A time, a duration before now, or, with ``+``, one from now on."""
    if given.startswith("+"):
        return datetime.now(UTC) + duration(given[1:])
    try:
        return past(given)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message}; or from now on, like +6h") from None


def window(given: str) -> Window:
    """A window as `Window` is written: hours, days, zone, and holidays if there are any."""
    from sendq.errors import InvalidArgument
    from sendq.rules.windows import read_window

    try:
        return read_window(given)
    except InvalidArgument as error:
        raise click.BadParameter(
            "; ".join(f"{one.field} {one.reason}" for one in error.problems)
            + "; use a form like '09:00-17:30 mon-fri Europe/Berlin'"
        ) from None


def rate(given: str) -> float:
    """``10``, ``10/s``, ``100/m``, ``500/h``; returns the seconds from one to the next."""
    found = _rate(given)
    if not found or not float(found[1]):
        raise click.BadParameter("use a form like 10/s, 100/m or 500/h")
    return SECONDS[found[2] or "s"] / float(found[1])


def one_of(given: str | None, key: str | None, name: str) -> None:
    """Refuse a job or batch that is not named either by its id (``name``) or by its key."""
    if (given is None) == (key is None):
        raise click.UsageError(f"give either {name} or --key")


def by_option(command: F) -> F:
    """``--by``: who acts, kept with the act."""
    help_ = "Author of the action (default: your user name)."
    return click.option("--by", default=_user, metavar="NAME", help=help_)(command)


rate_option = click.option(
    "--rate", "apart_s", type=rate, metavar="RATE", help="No faster than this, like 10/s or 100/m (default: no limit)."
)


def since_option(what: str) -> Callable[[F], F]:
    """``--since``: a time, or how long ago; ``what`` begins its help."""
    words = f"{what} this time: like 2026-07-01T09:00:00Z, or how long ago, like 2h."
    return click.option("--since", type=past, metavar="TIME", help=words)


def reason_option(*, required: bool) -> Callable[[F], F]:
    """``--reason``: why, kept with the act."""

    def decorate(command: F) -> F:
        return click.option(
            "--reason", required=required, metavar="TEXT", help="Reason; stored with the author and the time."
        )(command)

    return decorate


def dry_run_option(help_: str) -> Callable[[F], F]:
    """``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help=help_)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user often has no name
        return f"uid {os.getuid()}"
