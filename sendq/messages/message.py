"""The message that an application hands over, and its parts.

    Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>…</p>")
    Message(to=["Leyah <leyah@example.com>", {"email": "nyah@example.com", "name": "Nyah"}], is_plaintext=True)

Fields are those of the send endpoint (Nylas v3, "Send a message"), with its limits. Two kinds of mistake are told
apart, and both end as one `InvalidJob`:

- a *wrong type* (``to`` given as a string, a field that does not exist) is an error of the program, raised where the
  message is built, together with everything else that is wrong with it;
- a *wrong value* (an address that is none, a line break in a subject) usually comes from data. It waits for the call
  that enqueues, which lists it with the problems of that call's other arguments (`sendq.enqueueing.validation`).

A message is frozen, and shows nothing of itself in a ``repr`` (`sendq.messages.parts`). One that is MIME already is a
`sendq.messages.mime.MimeMessage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictStr

from sendq.enqueueing.validation import value_problems
from sendq.errors import Problem
from sendq.messages.addresses import parse
from sendq.messages.attachment import Attachment
from sendq.messages.parts import Part, listed, top


class Recipient(Part):
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


class CustomHeader(Part):
    """A header of the caller's own. Microsoft Graph and iCloud do not carry ``List-Unsubscribe``."""

    name: StrictStr
    value: StrictStr

    if TYPE_CHECKING:

        def __init__(self, /, *, name: str, value: str) -> None: ...


class TrackingOptions(Part):
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


class Template(Part):
    """A template kept at Nylas, which makes subject and body."""

    id: StrictStr
    strict: StrictBool | None = None
    """Whether a variable without a value is an error (the API's default) or stays as it is written."""
    variables: dict[StrictStr, StrictStr] | None = None

    if TYPE_CHECKING:

        def __init__(
            self, /, *, id: str, strict: bool | None = None, variables: Mapping[str, str] | None = None
        ) -> None: ...


def _people(value: object) -> tuple[Part, ...]:
    return listed(Recipient, value, "put it in a list, also if it is only one")


def _headers(value: object) -> tuple[Part, ...]:
    return listed(CustomHeader, value, "give a list of CustomHeader or of {name, value}")


def _attachments(value: object) -> tuple[Part, ...]:
    return listed(Attachment, value, "put it in a list, also if it is only one")


People = Annotated[tuple[Recipient, ...], BeforeValidator(_people)]
"""Recipients, given as `Recipient`, as a dict of its fields, or as a string."""


class Message(Part):
    """One email to send. All fields but ``to`` may be left out; ``None`` means left out, too.

    Raises `InvalidJob` for fields of the wrong type. Values are checked when the message is enqueued.
    """

    to: People = ()
    cc: People = ()
    bcc: People = ()
    reply_to: People = ()
    from_: People = Field((), alias="from")
    """At most one: the grant's own address or an alias of it. Left out, Nylas takes the grant's.

    A queue that knows the grant's addresses refuses any other (`SendQueue`, ``senders``).
    """
    subject: StrictStr | None = None
    body: StrictStr | None = None
    """HTML, unless ``is_plaintext``."""
    is_plaintext: StrictBool | None = None
    reply_to_message_id: StrictStr | None = None
    """Google and Microsoft: the provider's message id. IMAP: the RFC 822 Message-ID."""
    attachments: Annotated[tuple[Attachment, ...], BeforeValidator(_attachments)] = ()
    """Each an `Attachment`, a dict of its fields, or a path. The whole request may have 25 MB."""
    custom_headers: Annotated[tuple[CustomHeader, ...], BeforeValidator(_headers)] = ()
    metadata: dict[StrictStr, StrictStr] | None = None
    """At most 49 pairs (the fiftieth is ours), keys of at most 40 characters, values of at most 500."""
    tracking_options: Annotated[TrackingOptions, BeforeValidator(TrackingOptions.of)] | None = None
    template: Annotated[Template, BeforeValidator(Template.of)] | None = None
    signature_id: StrictStr | None = None
    """Of a signature kept at Nylas, which it appends to the body."""

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
            attachments: Iterable[Attachment | os.PathLike[str] | Mapping[str, Any]] | None = None,
            custom_headers: Iterable[CustomHeader | Mapping[str, str]] | None = None,
            metadata: Mapping[str, str] | None = None,
            tracking_options: TrackingOptions | Mapping[str, Any] | None = None,
            template: Template | Mapping[str, Any] | None = None,
            signature_id: str | None = None,
            **names_as_on_the_wire: Any,
        ) -> None: ...

    @classmethod
    def _further_problems(cls, data: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
        """The wrong values in those fields whose type is right, so that nothing has to be found twice."""
        unfit = {top(problem.field) for problem in problems}
        # An iterator was used up by the first attempt, and now looks like a list of nobody.
        unfit |= {name.rstrip("_") for name, value in data.items() if isinstance(value, Iterator)}
        known = {*cls.model_fields, "from"}
        sound = {name: value for name, value in data.items() if name in known and name.rstrip("_") not in unfit}
        return [problem for problem in value_problems(cls(**sound)) if top(problem.field) not in unfit]
