"""The message that an application hands over, and its parts.

    Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>…</p>")
    Message(to=["Leyah <leyah@example.com>", {"email": "nyah@example.com", "name": "Nyah"}], is_plaintext=True)

Fields are those of the send endpoint (Nylas v3, "Send a message"), with its limits. Two kinds of mistake are told
apart, and both end as one `InvalidJob`:

- a *wrong type* (``to`` given as a string, a field that does not exist) is an error of the program, raised where the
  message is built, together with everything else that is wrong with it;
- a *wrong value* (an address that is none, a line break in a subject) usually comes from data. It waits for the call
  that enqueues, which lists it with the problems of that call's other arguments (`sendq.validation`).

A message is frozen, and shows nothing of itself in a ``repr``: a traceback or an error tracker prints the values of
local variables, and what people write to each other is none of its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from sendq.addresses import parse
from sendq.characters import shown
from sendq.errors import InvalidJob, Problem
from sendq.validation import value_problems

# What is said for each of pydantic's error types. Its own messages are not used: some of them show the value.
_SAID = {
    "string_type": ("is not a string", "give a string"),
    "string_unicode": ("holds a lone surrogate (half of a character)", "remove it"),
    "bool_type": ("is not True or False", "give a bool"),
    "dict_type": ("is not a mapping", "give a dict of strings"),
    "missing": ("is missing", "give it"),
    "extra_forbidden": ("is not a field here", "see the class for the fields there are"),
}


class _Part(BaseModel):
    """What every part of a message has in common: frozen, strict, one error type, discreet."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
            return
        except ValidationError as error:
            problems = _problems(error)
        # Raised out here, so that pydantic's error (it carries the values) does not travel along as the context.
        raise InvalidJob(problems + self._further_problems(data, problems))

    @classmethod
    def _further_problems(cls, data: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
        return []

    @classmethod
    def of(cls, item: object) -> Self:
        """``item`` itself, or one made from a mapping of its fields. Raises `InvalidJob`."""
        if isinstance(item, cls):
            return item
        if isinstance(item, Mapping) and all(isinstance(name, str) for name in item):
            return cls(**item)
        raise InvalidJob([Problem("", "has the wrong type", f"give a {cls.__name__} or a dict of its fields")])

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values in some fields. Unlike pydantic's own, it checks them. Raises `InvalidJob`."""
        return type(self)(**{**dict(self), **(update or {})})

    def __setattr__(self, name: str, value: Any) -> None:
        # pydantic refuses as well, with an error that shows the value.
        raise AttributeError(f"a {type(self).__name__} does not change; make another with model_copy(update={{…}})")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}=…' for name in sorted(self.model_fields_set))})"

    __str__ = __repr__


class Recipient(_Part):
    """A person on a message: an address, and the name to show with it. Also the sender (``from_``)."""

    email: StrictStr
    name: StrictStr | None = None

    def __init__(self, email: str | None = None, name: str | None = None, /, **data: Any) -> None:
        if email is not None:
            data["email"] = email
        if name is not None:
            data["name"] = name
        super().__init__(**data)

    @classmethod
    def of(cls, item: object) -> Self:
        """As for every part, and a string: ``leyah@example.com`` or ``Leyah <leyah@example.com>``."""
        return cls(*parse(item)) if isinstance(item, str) else super().of(item)


class CustomHeader(_Part):
    """A header of the caller's own. Microsoft Graph and iCloud do not carry ``List-Unsubscribe``."""

    name: StrictStr
    value: StrictStr

    if TYPE_CHECKING:

        def __init__(self, /, *, name: str, value: str) -> None: ...


class TrackingOptions(_Part):
    """What Nylas tracks. On trial applications its mere presence is refused (400)."""

    opens: StrictBool | None = None
    links: StrictBool | None = None
    thread_replies: StrictBool | None = None
    label: StrictStr | None = None
    """At most 2,048 characters."""
    domain_name: StrictStr | None = None
    """The host name of the tracking links, registered in the Nylas dashboard; at most 253 characters."""

    if TYPE_CHECKING:

        def __init__(
            self,
            /,
            *,
            opens: bool | None = None,
            links: bool | None = None,
            thread_replies: bool | None = None,
            label: str | None = None,
            domain_name: str | None = None,
        ) -> None: ...


def _listed(kind: type[_Part], value: object, remedy: str) -> tuple[_Part, ...]:
    """Each item of ``value`` as a ``kind``. Raises one `InvalidJob` with the problems of all of them, by index."""
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping | _Part) or not isinstance(value, Iterable):
        raise InvalidJob([Problem("", "is not a list", remedy)])
    parts: list[_Part] = []
    problems: list[Problem] = []
    for index, item in enumerate(value):
        try:
            parts.append(kind.of(item))
        except InvalidJob as wrong:
            problems += [problem.under(f"[{index}]") for problem in wrong.problems]
    if problems:
        raise InvalidJob(problems)
    return tuple(parts)


def _people(value: object) -> tuple[_Part, ...]:
    return _listed(Recipient, value, "put it in a list, also if it is only one")


def _headers(value: object) -> tuple[_Part, ...]:
    return _listed(CustomHeader, value, "give a list of CustomHeader or of {name, value}")


People = Annotated[tuple[Recipient, ...], BeforeValidator(_people)]
"""Recipients, given as `Recipient`, as a dict of its fields, or as a string."""


class Message(_Part):
    """One email to send. All fields but ``to`` may be left out; ``None`` means left out, too.

    Raises `InvalidJob` for fields of the wrong type. Values are checked when the message is enqueued.
    """

    to: People = ()
    cc: People = ()
    bcc: People = ()
    reply_to: People = ()
    from_: People = Field((), alias="from")
    """At most one: the grant's own address or an alias of it. Left out, Nylas takes the grant's."""
    subject: StrictStr | None = None
    body: StrictStr | None = None
    """HTML, unless ``is_plaintext``."""
    is_plaintext: StrictBool | None = None
    reply_to_message_id: StrictStr | None = None
    """Google and Microsoft: the provider's message id. IMAP: the RFC 822 Message-ID."""
    custom_headers: Annotated[tuple[CustomHeader, ...], BeforeValidator(_headers)] = ()
    metadata: dict[StrictStr, StrictStr] | None = None
    """At most 49 pairs (the fiftieth is ours), keys of at most 40 characters, values of at most 500."""
    tracking_options: Annotated[TrackingOptions, BeforeValidator(TrackingOptions.of)] | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            /,
            *,
            to: Iterable[Recipient | str | Mapping[str, str]] | None = None,
            cc: Iterable[Recipient | str | Mapping[str, str]] | None = None,
            bcc: Iterable[Recipient | str | Mapping[str, str]] | None = None,
            reply_to: Iterable[Recipient | str | Mapping[str, str]] | None = None,
            from_: Iterable[Recipient | str | Mapping[str, str]] | None = None,
            subject: str | None = None,
            body: str | None = None,
            is_plaintext: bool | None = None,
            reply_to_message_id: str | None = None,
            custom_headers: Iterable[CustomHeader | Mapping[str, str]] | None = None,
            metadata: Mapping[str, str] | None = None,
            tracking_options: TrackingOptions | Mapping[str, Any] | None = None,
            **names_as_on_the_wire: Any,
        ) -> None: ...

    @classmethod
    def _further_problems(cls, data: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
        """The wrong values in those fields whose type is right, so that nothing has to be found twice."""
        unfit = {_top(problem.field) for problem in problems}
        # An iterator was used up by the first attempt, and now looks like a list of nobody.
        unfit |= {name.rstrip("_") for name, value in data.items() if isinstance(value, Iterator)}
        known = {*cls.model_fields, "from"}
        sound = {name: value for name, value in data.items() if name in known and name.rstrip("_") not in unfit}
        return [problem for problem in value_problems(cls(**sound)) if _top(problem.field) not in unfit]


def _top(path: str) -> str:
    """The field of a message that a path is in: ``to[2].email`` → ``to``."""
    return path.partition(".")[0].partition("[")[0]


def _problems(error: ValidationError) -> list[Problem]:
    problems = []
    for detail in error.errors(include_url=False, include_input=False):
        path, cause = _path(detail["loc"]), detail.get("ctx", {}).get("error")
        if isinstance(cause, InvalidJob):  # from one of our own validators, further in
            problems += [problem.under(path) for problem in cause.problems]
        else:
            reason, remedy = _SAID.get(detail["type"], ("has the wrong type", "see the class for what belongs here"))
            problems.append(Problem(path, reason, remedy))
    return problems


def _path(loc: Sequence[int | str]) -> str:
    """Where pydantic found it. Steps below a field are keys of ``metadata``: the lists are our own validators' work."""
    field, *keys = loc
    # pydantic names a field as the caller did, we as it is called on the wire.
    return ("from" if field == "from_" else shown(field)) + "".join(f"[{shown(key)}]" for key in keys if key != "[key]")
