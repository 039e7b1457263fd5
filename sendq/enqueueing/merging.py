"""Mail merge: one message, many recipients, each with its own fields.

A recipient is a row, as of a table: ``email`` (required), ``name`` and ``key`` have a meaning, and every column is a
field of the message. By default a field replaces ``{{field}}`` in subject and body; an HTML body gets it escaped. A
message with a template of Nylas gets the fields as the template's variables instead, and Nylas renders it. A function
of the application's own may make the message in any other way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import timedelta
from html import escape
from itertools import chain
from typing import Any
from uuid import UUID

from sendq.clock import Micros
from sendq.enqueueing.batch_sends import Refused, Sends
from sendq.enqueueing.options import Options, Send, with_key
from sendq.errors import InvalidJob, Problem
from sendq.messages.digests import same_form
from sendq.messages.fields import Recipient
from sendq.messages.message import Message
from sendq.messages.unsubscribe import Links
from sendq.rules.windows import Window

Row = Mapping[str, str]

Render = Callable[[Message, Row], Message]
"""Makes the message for one recipient from the common one and the recipient's row; ``to`` is filled in already."""

# Columns with a fixed meaning.
EMAIL, NAME, KEY = "email", "name", "key"

_placeholder = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class MissingField(ValueError):
    """A placeholder has no field; ``name`` is the placeholder's."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


class _Counted:
    """Messages whose number is known before they are read."""

    def __init__(self, sends: Iterator[Send], number: int) -> None:
        self._sends, self._number = sends, number

    def __iter__(self) -> Iterator[Send]:
        return self._sends

    def __len__(self) -> int:
        return self._number


def merged(
    grant_id: str, message: Message, rows: Iterable[Row | Refused], *, options: Options, render: Render | None = None
) -> Iterable[Send]:
    """The messages, one for each row, in their order; a row that cannot be merged is `Refused`, with its problems.

    If the number of rows is known, so is that of the messages.
    """
    sends = _merged(grant_id, message, rows, options=options, render=render)
    return _Counted(sends, len(rows)) if isinstance(rows, Sized) else sends


def _merged(
    grant_id: str, message: Message, rows: Iterable[Row | Refused], *, options: Options, render: Render | None
) -> Iterator[Send]:
    seen: dict[str, int] = {}
    fields = _Fields(message)
    for position, row in enumerate(rows):
        if isinstance(row, Refused):
            yield row  # type: ignore[misc]  # for `Sends`, which knows it
            continue
        problems = _row_problems(row, seen, position)
        if not problems:
            try:
                to = (Recipient(row[EMAIL], row.get(NAME) or None),)
                made = fields.merged(to, row) if render is None else render(message.with_typed(to=to), row)
                own_key = row.get(KEY) or None
                yield Send(grant_id, made, options if own_key is None else with_key(options, own_key))
                continue
            except MissingField as missing:
                remedy = "add it to the row, or take it out of the message"
                problems = [Problem("row", f"has no value for {{{{{missing.name}}}}}", remedy)]
            except InvalidJob as wrong:
                problems = list(wrong.problems)
        yield Refused(tuple(problems))  # type: ignore[misc]


def merge_problems(
    grant_id: str,
    message: Message,
    rows: Iterable[Row | Refused],
    *,
    options: Options,
    now: Micros,
    metadata_key: str,
    unsubscribe_url: str | None,
    most: int,
    window: Window | None = None,
    spread: timedelta | None = None,
) -> tuple[int, list[Problem]]:
    """What a merge would refuse, without a ledger: the number of rows, and up to ``most`` problems, by their positions.

    Suppressed recipients and used keys are found only when it is enqueued.
    """
    sends = Sends(
        merged(grant_id, message, rows, options=options), batch_id=UUID(int=0), application=options.application,
        tags=None, window=window, spread=spread, now=now, metadata_key=metadata_key, problems_most=most,
    )  # fmt: skip
    try:
        for _ in sends.parts(lambda: Links(bytes(32), unsubscribe_url)):
            pass
    except InvalidJob as wrong:
        return sends.number, list(wrong.problems)
    return sends.number, []


def check_merge(message: object, options: Options) -> None:
    """Raise `InvalidJob` with what is wrong with the message of a merge as such, and with the options of all."""
    problems = []
    if not isinstance(message, Message):
        problems.append(Problem("message", "is not a sendq.Message", "create one: Message(subject=…, body=…)"))
    elif message.to:
        remedy = "leave it out: each row has the address of its recipient"
        problems.append(Problem("message.to", "is set", remedy))
    if options.key is not None:
        problems.append(Problem("key", "is set for all messages", "give each row a key, and the batch its own"))
    if problems:
        raise InvalidJob(problems)


def _row_problems(row: object, seen: dict[str, int], position: int) -> list[Problem]:
    if not isinstance(row, Mapping) or not _has_only_strings(row):
        return [Problem("row", "is not a dict of strings", 'pass one like {"email": "…", "first_name": "…"}')]
    address = row.get(EMAIL, "").strip()
    if not address:
        return [Problem(EMAIL, "is missing", "give each row the address of its recipient")]
    earlier = seen.setdefault(same_form(address), position)
    if earlier != position:
        return [Problem(EMAIL, f"is the same address as that of [{earlier}]", "leave one of the two out")]
    return []


def _has_only_strings(row: Mapping[Any, Any]) -> bool:
    kinds = set(map(type, chain(row, row.values())))
    return kinds <= {str} or all(issubclass(kind, str) for kind in kinds)


class _Fields:
    """Puts the fields of a row into the message: into its placeholders, or among the variables of its template."""

    def __init__(self, message: Message) -> None:
        """The common message: its texts are taken apart only once."""
        self._message = message
        self._texts: dict[str, _Text] = {}
        if message.template is None and message.subject is not None:
            self._texts["subject"] = _Text(message.subject)
        if message.template is None and message.body is not None:
            self._texts["body"] = _Text(message.body, html=not message.is_plaintext)

    def merged(self, to: tuple[Recipient, ...], row: Row) -> Message:
        """The message for the recipient of this row. Raises `MissingField`."""
        made: dict[str, Any] = {field: text.filled(row) for field, text in self._texts.items()}
        if (template := self._message.template) is not None:
            made["template"] = template.with_typed(variables={**(template.variables or {}), **row})
        return self._message.with_typed(to=to, **made)


class _Text:
    """A text with placeholders."""

    def __init__(self, text: str, *, html: bool = False) -> None:
        # Split at a pattern with one group: what is between the placeholders, and every second one is a name.
        self._parts = _placeholder.split(text)
        self._html = html

    def filled(self, row: Row) -> str:
        """The text for a row. Raises `MissingField`."""
        parts = self._parts.copy()
        for at in range(1, len(parts), 2):
            name = parts[at]
            if name not in row:
                raise MissingField(name)
            parts[at] = escape(row[name]) if self._html else row[name]
        return "".join(parts) if len(parts) > 1 else parts[0]
