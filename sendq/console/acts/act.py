"""What an act of the console is: which fields it takes, what it would do, and its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sendq.console.listing import PERIODS, since
from sendq.console.runs import Facts
from sendq.errors import InvalidArgument, Problem
from sendq.operators import Operators
from sendq.queue import SendQueue
from sendq.scope import DEFAULT_APPLICATION
from sendq.vault import Vault


@dataclass(frozen=True, slots=True)
class Choice:
    """An input of an act's form: a selection (``options``), a checkbox (``check``), a line of text, or many (``long``).

    ``required``: it must be filled in; nothing is selected until a person chooses.
    """

    name: str
    label: str
    options: Sequence[tuple[str, str]] = ()
    check: bool = False
    long: bool = False
    required: bool = False
    value: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What an act would do.

    ``what``: a heading such as "Release grant g1"; ``button``: the same as a command, with the number; ``facts``: what
    was counted; ``warnings``: what to know before; ``possible``: False if there is nothing to do, and ``warnings`` say
    why; ``back``: the address of the page that it concerns, within the console; ``fixed``: fields that the form gets
    besides those of the address, so that the act is about what the preview has shown.
    """

    what: str
    button: str
    facts: Facts
    back: Sequence[str]
    warnings: Sequence[str] = ()
    possible: bool = True
    danger: bool = False
    choices: Sequence[Choice] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """The fields of an act's form, who sent it, and, if the console has them, the ledger's encryption keys and the
    queue that replaces messages.
    """

    values: Mapping[str, str]
    by: str
    reason: str = "-"
    vault: Vault = field(default_factory=Vault)
    queue: SendQueue | None = None

    def get(self, name: str) -> str | None:
        """A field; None: it is missing or empty."""
        return self.values.get(name, "").strip() or None

    def checked(self, name: str) -> bool:
        """Whether a checkbox is set."""
        return self.get(name) is not None

    @property
    def application(self) -> str:
        """The application that a grant belongs to."""
        return self.get("application") or DEFAULT_APPLICATION

    @property
    def since(self) -> datetime | None:
        """When the period began that the list showed: one of `PERIODS`, or a time. Raises `InvalidArgument`."""
        text = self.get("since")
        return since(text, datetime.now(UTC)) if text is not None and text in PERIODS else self.time("since")

    @property
    def until(self) -> datetime | None:
        """When the preview was made, for acts on all that matches. Raises `InvalidArgument`."""
        return self.time("until")

    def time(self, name: str) -> datetime | None:
        """A field that is a time; None: it is missing or empty. Raises `InvalidArgument`."""
        text = self.get(name)
        if text is None:
            return None
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            reason, remedy = "is not a time with its zone", "give one like 2026-07-01T09:00:00Z"
            raise InvalidArgument([Problem(name, reason, remedy)])
        return at

    @property
    def content(self) -> int | None:
        """The content version of a job that the person has seen; None: not given. Raises `InvalidArgument`."""
        text = self.get("content")
        if text is not None and not (text.isdecimal() and len(text) <= CONTENT_DIGITS):
            raise InvalidArgument([Problem("content", "is not a number", "open the act from the page of the job")])
        return None if text is None else int(text)

    @property
    def apart_s(self) -> float:
        """Seconds from one thing to the next, from the field ``rate``: things per minute. Raises `InvalidArgument`."""
        text = self.get("rate")
        if text is None:
            return 0.0
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not RATE_LEAST <= value <= RATE_MOST:
            reason = f"is not a number from {RATE_LEAST} to {RATE_MOST:,}"
            raise InvalidArgument([Problem("rate", reason, "give how many per minute")])
        return 60 / value


CONTENT_DIGITS = 9

# How many per minute a form may ask for.
RATE_LEAST, RATE_MOST = 0.01, 100_000


def rate_choice(without: str) -> Choice:
    """The input ``rate``; ``without``: what happens without one."""
    rates = (("600", "600 a minute"), ("60", "60 a minute"), ("10", "10 a minute"), ("1", "1 a minute"))
    return Choice("rate", "Rate", (("", without), *rates))


class Act:
    """An act by its name in the address. Its methods raise the exceptions of `Operators`.

    ``fields``: those that say what it concerns, which an address may have; those of `Preview.choices` say how.
    ``form_most``: bytes of its form; None: as many as any form has; ``too_large``: what to do with a larger one.
    """

    name: str
    fields: Sequence[str]
    form_most: int | None = None
    too_large: str = "Shorten it."

    def preview(self, operators: Operators, given: Given) -> Preview:
        """What it would do, whatever the choices of the form are. Nothing is changed."""
        raise NotImplementedError

    def check(self, operators: Operators, given: Given) -> None:
        """Raise `InvalidArgument` if it cannot be carried out as the form says, whatever the preview has found: then
        the form is shown again, with what was entered. Nothing is changed.
        """

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """Carry it out, step by step; each yields what has been done so far."""
        raise NotImplementedError


def with_period(act: Act, values: Mapping[str, str], now: datetime) -> Mapping[str, str]:
    """The fields with the period that a preview counts: what begins to match later is not changed by the act.

    Raises `InvalidArgument`.
    """
    begun = Given(values, "").since if "since" in act.fields else None
    since = {} if begun is None else {"since": begun.isoformat()}
    until = {"until": values.get("until") or now.isoformat()} if "until" in act.fields else {}
    return {**values, **since, **until}


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"1 {one}" if number == 1 else f"{number:,} {many or one + 's'}"
