"""The base class of a message and its parts: immutable, strict, with one type of error and a ``repr`` without content.

Tracebacks and error trackers print the values of local variables; private mail must not appear there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sendq.errors import InvalidJob, Problem
from sendq.messages.characters import shown

# Reason and remedy for each of pydantic's error types. Its own messages are not used: some of them show the value.
_SAID = {
    "string_type": ("is not a string", "pass a string"),
    "string_unicode": ("contains a lone surrogate (half of a character)", "remove it"),
    "bool_type": ("is not True or False", "pass a bool"),
    "dict_type": ("is not a mapping", "pass a dict of strings"),
    "missing": ("is missing", "set it"),
    "extra_forbidden": ("is not a known field", "correct its name, or leave it out"),
}

# Fields of the API that are deliberately not supported, and what to use instead.
_LEFT_OUT = {
    "send_at": ("schedules the message at Nylas, where the queue would not see failures", "use due_at instead"),
    "use_draft": ("belongs to scheduled sends of Nylas, which are not supported", "use due_at instead"),
    "shared_from": (
        "is a parameter of listings and changes, not of sends",
        "set from_ to the shared mailbox's address",
    ),
    "shared_folder_id": ("is a parameter of listings and changes, not of sends", "leave it out"),
    "query_imap": ("is a parameter of listings and changes, not of sends", "leave it out"),
}


class Part(BaseModel):
    """A message, or a piece of one. Raises `InvalidJob` for fields of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
            return
        except ValidationError as error:
            problems = _problems(error)
        # Raised outside of the handler, so that pydantic's error, which contains the values, is not its context.
        raise InvalidJob(problems + self._further_problems(data, problems))

    @classmethod
    def _further_problems(cls, data: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
        return []

    @classmethod
    def of(cls, item: object) -> Self:
        """``item`` itself, or a part made from a mapping of its fields. Raises `InvalidJob`."""
        if type(item) is cls or isinstance(item, cls):
            return item
        if isinstance(item, Mapping) and all(isinstance(name, str) for name in item):
            return cls(**item)
        raise InvalidJob([Problem("", "has the wrong type", f"pass a {cls.__name__} or a dict of its fields")])

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed. Unlike pydantic's own, it checks them. Raises `InvalidJob`."""
        return type(self)(**{**self.__dict__, **(update or {})})

    def with_typed(self, **fields: Any) -> Self:
        """A copy with fields that are known to have the type of theirs: it costs a fraction of `model_copy`."""
        return super().model_copy(update=fields)

    def __setattr__(self, name: str, value: Any) -> None:
        # pydantic refuses as well, with an error that shows the value.
        raise AttributeError(f"a {type(self).__name__} is immutable; make a copy with model_copy(update={{…}})")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}=…' for name in sorted(self.model_fields_set))})"

    __str__ = __repr__


def listed(kind: type[Part], value: object, remedy: str) -> tuple[Part, ...]:
    """Each item of ``value`` as a ``kind``. Raises one `InvalidJob` with the problems of all items, by index."""
    if value is None:
        return ()
    if type(value) is tuple and all(type(item) is kind for item in value):  # of another message
        return value
    if not isinstance(value, list | tuple) and (
        isinstance(value, str | bytes | Mapping | Part) or not isinstance(value, Iterable)
    ):
        raise InvalidJob([Problem("", "is not a list", remedy)])
    parts: list[Part] = []
    problems: list[Problem] = []
    for index, item in enumerate(value):
        try:
            parts.append(kind.of(item))
        except InvalidJob as wrong:
            problems += [problem.under(f"[{index}]") for problem in wrong.problems]
    if problems:
        raise InvalidJob(problems)
    return tuple(parts)


def top(path: str) -> str:
    """The field of a message that a path is in: ``to[2].email`` → ``to``."""
    return path.partition(".")[0].partition("[")[0]


def _problems(error: ValidationError) -> list[Problem]:
    problems = []
    for detail in error.errors(include_url=False, include_input=False):
        path, cause = _path(detail["loc"]), detail.get("ctx", {}).get("error")
        if isinstance(cause, InvalidJob):  # from one of our own validators, of a nested part
            problems += [problem.under(path) for problem in cause.problems]
            continue
        kind = detail["type"]
        reason, remedy = _SAID.get(kind, ("has the wrong type", "see the class for the expected type"))
        if kind == "extra_forbidden":
            reason, remedy = _LEFT_OUT.get(path, (reason, remedy))
        problems.append(Problem(path, reason, remedy))
    return problems


def _path(loc: Sequence[int | str]) -> str:
    """The path of an error of pydantic. Steps below a field are keys of a mapping; our own validators handle lists."""
    field, *keys = loc
    # pydantic names a field as the caller did, we use its name in the API.
    return ("from" if field == "from_" else shown(field)) + "".join(f"[{shown(key)}]" for key in keys if key != "[key]")
