"""From JSON to the arguments of the Python API, whose names the fields have and whose checks decide.

Here only what JSON cannot express is converted: times (ISO 8601), ``never``, and bytes (base64). What cannot be
converted is passed on as it is, and the Python API says what is wrong with it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, TypeGuard, TypeVar, get_args, get_type_hints

from sendq import changes, clock
from sendq.api.problems import Refused
from sendq.api.tokens import Token
from sendq.enqueueing.batch_sends import NewBatch
from sendq.enqueueing.expiry import NEVER, Never
from sendq.enqueueing.options import Options, OptionsGiven, Send, option_problems
from sendq.enqueueing.query import Query
from sendq.enqueueing.validation import check_message, check_mime
from sendq.errors import InvalidArgument, InvalidJob, Problem
from sendq.messages.attachment import Attachment
from sendq.messages.characters import shown
from sendq.messages.content import Content
from sendq.messages.from_json import ALIASES, UNKNOWN, from_base64, message_arguments
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage

T = TypeVar("T")

SENDS_MOST = 10_000  # of one request; a batch that is open takes more in the next one
PROBLEMS_MOST = 100  # are listed one by one; the rest are counted

NEVER_TEXT = "never"

KEYS_DIFFER = Problem("key", "differs from the header Idempotency-Key", "send one of them, or the same value")


@cache
def option_hints(kind: type = Options) -> Mapping[str, Any]:
    """The options of a call by name, with their types."""
    return types.MappingProxyType(get_type_hints(kind))


@dataclass(slots=True)
class Given:
    """A JSON object whose fields are taken one after another; what is left over is unknown."""

    left: dict[str, Any]
    problems: list[Problem]

    @classmethod
    def of(cls, given: object, what: str = "") -> Given:
        """Raises `InvalidJob` if it is not an object."""
        if not isinstance(given, dict):
            raise InvalidJob([Problem(what, "is not a JSON object", "send an object")])
        return cls(dict(given), [])

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a field; null: ``default``, as if it were not there."""
        value = self.left.pop(name, None)
        return default if value is None else value

    def take_some(self, hints: Mapping[str, Any]) -> dict[str, Any]:
        """The values of these fields that are there, converted as their types require."""
        found = {}
        for argument, hint in hints.items():
            value = self.take(argument.rstrip("_") if argument in ALIASES.values() else argument)
            if value is None:
                continue
            try:
                found[argument] = converted(hint, value, argument)
            except InvalidArgument as wrong:
                self.problems += wrong.problems
        return found

    def end(self) -> None:
        """Every field that is left over is a problem."""
        self.problems += (Problem(shown(name), *UNKNOWN) for name in self.left)


def converted(hint: Any, value: Any, name: str = "") -> Any:
    """A value of JSON as this type has it, or as it is: a time span is a number of seconds, a data class an object of
    its fields. Raises `InvalidArgument` for what is wrong with those, under ``name``.
    """
    kinds = get_args(hint) or (hint,)
    if isinstance(value, list) and date in kinds:
        return [converted(date, one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and timedelta in kinds:
        return _span(value)
    if isinstance(value, dict):
        for kind in kinds:
            if is_given(kind):
                return _data_class(kind, value, name)
    if isinstance(value, str) and Never in kinds and value == NEVER_TEXT:
        return NEVER
    if isinstance(value, str) and datetime in kinds:
        return time_of(value)
    if isinstance(value, str) and date in kinds:
        return _day(value)
    return value


def is_given(kind: Any) -> TypeGuard[type]:
    """Whether clients send objects of this data class: views are answers, of which they send the id."""
    return isinstance(kind, type) and is_dataclass(kind) and not kind.__module__.startswith("sendq.views")


def _span(seconds: float) -> timedelta | float:
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return seconds


def _day(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


def _data_class(kind: type, value: dict[str, Any], name: str) -> Any:
    needed = {one.name for one in fields(kind) if one.init and one.default is MISSING}
    given = Given(dict(value), [])
    hints = get_type_hints(kind)
    found = given.take_some({one.name: hints[one.name] for one in fields(kind) if one.init})
    given.end()
    problems = [problem.under(name) for problem in given.problems]
    problems += (Problem(f"{name}.{one}", "is missing", "set it") for one in sorted(needed - found.keys()))
    if problems:
        raise InvalidArgument(problems)
    return kind(**found)


def time_of(text: str) -> datetime | str:
    """A time in ISO 8601; what is none, or lies outside of the calendar in UTC, stays a string."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            found.astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return found


def send_of(
    given: object,
    token: Token,
    *,
    key: str | None = None,
    traceparent: str | None = None,
    files: Sequence[Attachment] = (),
    mime: Content | None = None,
) -> Send:
    """One message of a request. ``key`` and ``traceparent``: of the headers; ``files`` and ``mime``: of a form.

    Raises `InvalidJob` with every problem that can be found without the ledger, and `Refused` for what the token does
    not allow.
    """
    fields_given = Given.of(given)
    grant_id = fields_given.left.pop("grant_id", None)
    options = options_of(fields_given, token, key, traceparent)
    require_grant(token, grant_id)
    problems = fields_given.problems
    make, message = _message_maker(fields_given, files, mime), None
    fields_given.end()
    try:
        message = make()
    except InvalidJob as wrong:
        problems += wrong.problems
    if problems or message is None:
        raise InvalidJob([*problems, *_problems(grant_id, message, options)])
    return Send(grant_id, message, options)


def message_of(given: Given, *, files: Sequence[Attachment] = (), mime: Content | None = None) -> Message | MimeMessage:
    """The message of a request that has no other fields left. Raises `InvalidJob`."""
    make, message, problems = _message_maker(given, files, mime), None, given.problems
    given.end()
    try:
        message = make()
    except InvalidJob as wrong:
        problems += wrong.problems
    if problems or message is None:
        raise InvalidJob([*problems, *_message_problems(message, None)])
    return message


def sends_of(given: object, token: Token, *, traceparent: str | None = None, field: str = "sends") -> list[Send]:
    """The messages of one request. Raises `InvalidJob` with the problems of all of them, and `Refused`."""
    if not isinstance(given, list):
        raise InvalidJob([Problem(field, "is not a list of messages", "send a list, even for a single message")])
    if len(given) > SENDS_MOST:
        remedy = "add them to an open batch in several requests"
        raise InvalidJob([Problem(field, f"has more than {SENDS_MOST:,} messages", remedy)])
    made: dict[int, Send] = {}
    problems: list[Problem] = []
    for position, one in enumerate(given):
        try:
            made[position] = send_of(one, token, traceparent=traceparent)
        except InvalidJob as wrong:
            problems += [problem.under(f"[{position}]") for problem in wrong.problems]
    if not problems:
        return list(made.values())
    for position, send in made.items():
        found = _problems(send.grant_id, send.message, send.options)
        problems += [problem.under(f"[{position}]") for problem in found]
    raise InvalidJob(shortened(sorted(problems, key=_position), field))


def options_of(
    given: Given,
    token: Token,
    key: str | None = None,
    traceparent: str | None = None,
    *,
    kind: type = Options,
    hints: Mapping[str, Any] | None = None,
) -> Any:
    """The options of a call, an object of ``kind``; the application is the token's. Raises `Refused`."""
    known = option_hints(kind) if hints is None else hints
    found = given.take_some(known)
    if traceparent is not None and "traceparent" in known:
        found.setdefault("traceparent", traceparent)
    application = found.setdefault("application", token.application)
    if isinstance(application, str) and application != token.application:
        raise Refused("not-allowed", "The token is for another application.")
    if key is not None and found.setdefault("key", key) != key:
        given.problems.append(KEYS_DIFFER)
    return kind(**found)


def bulk_options(given: Given, token: Token, key: str | None, traceparent: str | None) -> dict[str, Any]:
    """The options of a modification or deletion as keyword arguments. Raises `Refused`."""
    hints = option_hints(OptionsGiven)
    options = options_of(given, token, key, traceparent, hints=hints)
    return {name: getattr(options, name) for name in hints}


def batch_of(given: Given, token: Token, key: str | None) -> NewBatch:
    """The batch to be made. Raises `Refused`."""
    new: NewBatch = options_of(given, token, key, kind=NewBatch)
    return new


def query_of(given: object) -> Query:
    """A query. Raises `InvalidJob` for unknown fields."""
    fields_given = Given.of(given, "query")
    query = Query(**fields_given.take_some(option_hints(Query)))
    fields_given.end()
    if fields_given.problems:
        raise InvalidJob([problem.under("query") for problem in fields_given.problems])
    return query


def require_grant(token: Token, grant_id: object) -> None:
    """Raise `Refused` for a grant that the token does not cover, whether it exists or not."""
    if isinstance(grant_id, str) and grant_id and not token.covers(grant_id):
        raise Refused("not-allowed", "The token does not cover this grant.")


Check = Callable[[dict[str, Any]], object]  # raises `InvalidArgument`


def arguments(given: object, hints: Mapping[str, Any], *checks: Check, optional: bool = False) -> dict[str, Any]:
    """Fields that are arguments of a method. Raises `InvalidArgument` with everything that is wrong: unknown fields,
    and what the ``checks`` of the method find.
    """
    if given is None and optional:
        return {}
    try:
        fields_given = Given.of(given)
    except InvalidJob as wrong:
        raise InvalidArgument(wrong.problems) from None
    found = fields_given.take_some(hints)
    fields_given.end()
    problems = fields_given.problems + problems_of(found, *checks)
    if problems:
        raise InvalidArgument(problems)
    return found


def problems_of(given: dict[str, Any], *checks: Check) -> list[Problem]:
    """Everything that these checks find."""
    problems: list[Problem] = []
    for check in checks:
        try:
            check(given)
        except InvalidArgument as wrong:
            problems += wrong.problems
    return problems


def check_reason(given: dict[str, Any]) -> None:
    """Raise `InvalidArgument` for a ``reason`` that cannot be recorded."""
    changes.author_of(None, given.get("reason"))


def query_string(given: Sequence[tuple[str, str]], hints: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Parameters of an address (a list's may be repeated), and what is wrong with others."""
    found: dict[str, Any] = {}
    problems = []
    for name, value in given:
        several = name in hints and list in get_args(hints[name])
        if name not in hints:
            problems.append(Problem(shown(name), "is not a known parameter", "correct its name, or leave it out"))
        elif several:
            found.setdefault(name, []).append(value)
        elif name in found:
            problems.append(Problem(name, "is given twice", "give it once"))
        elif int in get_args(hints[name]) and value.isascii() and value.isdecimal() and len(value) < 10:
            found[name] = int(value)
        else:
            found[name] = converted(hints[name], value)
    return found, problems


def read_with(read: Callable[..., T], parameters: Mapping[str, Any], problems: Sequence[Problem]) -> T:
    """Read with these parameters. Raises `InvalidArgument` with ``problems`` and those of all of them: the read names
    one after the other, and is repeated without that one.
    """
    left, found = dict(parameters), list(problems)
    while True:
        try:
            result = read(**left)
        except InvalidArgument as wrong:
            found += wrong.problems
            named = {problem.field for problem in wrong.problems} & left.keys()
            if not named:
                raise InvalidArgument(found) from None
            for name in named:
                del left[name]
        else:
            if found:
                raise InvalidArgument(found)
            return result


# --- messages ---------------------------------------------------------------------------------------------------------


def _message_maker(
    given: Given, files: Sequence[Attachment], mime: Content | None
) -> Callable[[], Message | MimeMessage | None]:
    """Makes the message: ``message`` is an object of its fields, ``mime`` a finished message in base64."""
    message, encoded = given.take("message"), given.take("mime")
    if (message is not None) + (encoded is not None) + (mime is not None) != 1:
        remedy = "send an object `message`, or a finished message as `mime`"
        given.problems.append(Problem("message", "is missing, or sent together with `mime`", remedy))
        return lambda: None
    if mime is not None or encoded is not None:
        if files:
            remedy = "put the files into the finished message"
            given.problems.append(Problem("attachments", "cannot be added to a finished message", remedy))
        content = mime if mime is not None else from_base64(encoded, "mime", given.problems)
        return lambda: MimeMessage(content)
    if not isinstance(message, dict):
        given.problems.append(Problem("message", "is not a JSON object", "send an object of the message's fields"))
        return lambda: None
    arguments = message_arguments(message, given.problems, files=files)
    return lambda: Message(**arguments)


def _problems(grant_id: object, message: Message | MimeMessage | None, options: Options) -> list[Problem]:
    """What the Python API would find: it is not asked if something cannot be converted."""
    provider = options.provider if isinstance(options.provider, str) else None
    return option_problems(grant_id, options, now=clock.now()) + _message_problems(message, provider)


def _message_problems(message: Message | MimeMessage | None, provider: str | None) -> list[Problem]:
    if isinstance(message, Message):
        return check_message(message, provider=provider, metadata_key="")
    return [] if message is None else check_mime(message, provider=provider)


def _position(problem: Problem) -> int:
    return int(problem.field[1 : problem.field.index("]")])


def shortened(problems: list[Problem], field: str) -> list[Problem]:
    """The first problems, and the number of the others under ``field``."""
    more = len(problems) - PROBLEMS_MOST
    if more <= 0:
        return problems
    return [*problems[:PROBLEMS_MOST], Problem(field, f"has {more:,} more problems", "fix these first")]
