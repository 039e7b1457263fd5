"""Messages in JSON, as the HTTP API, the command line and the console read them.

The fields are those of `Message`, by their names in the API (``from``, not ``from_``); the content of a file is base64.
No problem contains anything of the text.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sendq.errors import InvalidJob, Problem
from sendq.messages.attachment import Attachment
from sendq.messages.message import Message

UNKNOWN = ("is not a known field", "correct its name, or leave it out")

# Fields whose names are words of Python, by their names in JSON.
ALIASES: Mapping[str, str] = {"in": "in_", "from": "from_"}


def message_from_json(text: bytes) -> Message:
    """The message that a file or an input has. Raises `InvalidJob` with every problem."""
    text = text.removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        raise InvalidJob([Problem("", "is empty", "write the fields of the message")])
    fields = strict_json(text)
    if not isinstance(fields, dict):
        reason, remedy = "is not a JSON object", 'write the fields of the message: {"to": …, "subject": …, "body": …}'
        raise InvalidJob([Problem("", reason, remedy)])
    problems: list[Problem] = []
    try:
        message = Message(**message_arguments(fields, problems))
    except InvalidJob as wrong:
        problems += wrong.problems
    if problems:
        raise InvalidJob(problems)
    return message


def message_arguments(
    fields: Mapping[str, Any], problems: list[Problem], *, files: Sequence[Attachment] = ()
) -> dict[str, Any]:
    """The arguments of `Message`, with ``files`` after the attachments. What is wrong is added to ``problems``."""
    arguments = dict(fields)
    for name in set(ALIASES.values()) & arguments.keys():
        problems.append(Problem(name, *UNKNOWN))
        del arguments[name]
    attachments = arguments.get("attachments")
    if attachments is None and files:
        attachments = []
    if isinstance(attachments, list):
        arguments["attachments"] = [*_with_contents(attachments, problems), *files]
    return arguments


def from_base64(encoded: object, field: str, problems: list[Problem]) -> bytes:
    """The bytes of a text in base64; empty, with a problem, if it is none."""
    remedy = "encode the bytes as base64 (RFC 4648, section 4), without line breaks"
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    problems.append(Problem(field, "is not base64", remedy))
    return b""


def strict_json(text: bytes) -> Any:
    """JSON in UTF-8, each name of an object once, no NaN. Raises `InvalidJob`, which says where the mistake is."""
    reason, remedy = "is not JSON", "correct it"
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError:
        reason, remedy = "is not UTF-8", "encode it as UTF-8"
    except json.JSONDecodeError as error:  # its text and its document are left out: they are content
        reason = f"is not JSON from line {error.lineno}, column {error.colno} on"
    except _TwiceError:
        reason, remedy = "has an object with the same name twice", "leave one out"
    except RecursionError:
        reason, remedy = "is nested too deeply", "use fewer levels"
    except ValueError:  # NaN, Infinity, a number of thousands of digits
        reason, remedy = "has a number that JSON does not have, or that is too long", "correct it"
    raise InvalidJob([Problem("", reason, remedy)])


class _TwiceError(ValueError):
    """A name that occurs twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _with_contents(attachments: list[Any], problems: list[Problem]) -> Iterator[Any]:
    for index, one in enumerate(attachments):
        if isinstance(one, Mapping) and one.get("content") is not None:
            yield {**one, "content": from_base64(one["content"], f"attachments[{index}].content", problems)}
        else:
            yield one
