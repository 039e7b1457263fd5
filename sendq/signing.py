"""Who acts, and why: the author and the reason that are recorded with an act. Raises `InvalidArgument`."""

from __future__ import annotations

from sendq.errors import InvalidArgument, Problem
from sendq.ledger.events import AUTOMATIC

# Characters of an author's name and of a reason: both are shown in tables.
TEXT_MOST = 500


def signed(by: str, reason: str) -> tuple[str, str]:
    """The author and the reason of an act, without surrounding spaces; both are recorded with the act."""
    problems = _text_problems("by", by)
    if not problems and by.strip() in AUTOMATIC:
        problems = [Problem("by", f"{by.strip()!r} is a name of sendq itself", "give a person's name")]
    problems += _text_problems("reason", reason)
    if problems:
        raise InvalidArgument(problems)
    return by.strip(), reason.strip()


def maybe_signed(by: str, reason: str | None) -> tuple[str, str | None]:
    """`signed` for an act that needs no reason."""
    if reason is None:
        return signed(by, "-")[0], None
    return signed(by, reason)


def _text_problems(field: str, value: object) -> list[Problem]:
    remedy = f"give one line of 1 to {TEXT_MOST} characters"
    if not isinstance(value, str):
        return [Problem(field, "is missing" if value is None else "is not a string", remedy)]
    text = value.strip()
    if not text:
        return [Problem(field, "is empty", remedy)]
    if len(text) > TEXT_MOST:
        return [Problem(field, f"has more than {TEXT_MOST} characters", remedy)]
    return [] if text.isprintable() else [Problem(field, "has a character that cannot be printed", remedy)]
