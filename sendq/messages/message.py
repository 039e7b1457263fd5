"""`Message`: the email that an application sends.

    Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>…</p>")
    Message(to=["Leyah <leyah@example.com>", {"email": "nyah@example.com", "name": "Nyah"}], is_plaintext=True)

The fields and limits are those of the send endpoint (Nylas v3, "Send a message"). Mistakes raise `InvalidJob`:

- a *wrong type* (a string as ``to``, an unknown field) is a mistake of the program. It is raised when the message is
  created, together with all other problems of the message;
- a *wrong value* (an invalid address, a line break in the subject) usually comes from data. It is raised by the call
  that enqueues, together with the problems of that call's other arguments (`sendq.enqueueing.validation`).

A message is immutable, and its ``repr`` shows no content (`sendq.messages.parts`). For finished MIME messages there is
`sendq.messages.mime.MimeMessage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictStr

from sendq.errors import Problem
from sendq.messages.attachment import Attachment, attachment_problems
from sendq.messages.characters import header_fault, text_fault
from sendq.messages.field_checks import (
    add_fault,
    check_headers,
    check_id,
    check_metadata,
    check_people,
    check_template,
    check_tracking,
)
from sendq.messages.fields import CustomHeader, Recipient, Template, TrackingOptions
from sendq.messages.parts import Part, listed, top
from sendq.messages.unsubscribe import Unsubscribe, unsubscribe_problems


def _people(value: object) -> tuple[Part, ...]:
    return listed(Recipient, value, "pass a list, even for a single item")


def _headers(value: object) -> tuple[Part, ...]:
    return listed(CustomHeader, value, "pass a list of CustomHeader, or of dicts with name and value")


def _attachments(value: object) -> tuple[Part, ...]:
    return listed(Attachment, value, "pass a list, even for a single item")


People = Annotated[tuple[Recipient, ...], BeforeValidator(_people)]
"""Recipients: each a `Recipient`, a dict of its fields, or a string."""


class Message(Part):
    """One email to send. Only ``to`` is required; ``None`` means that a field is not set.

    Raises `InvalidJob` for fields of the wrong type. Values are checked when the message is enqueued.
    """

    to: People = ()
    cc: People = ()
    bcc: People = ()
    reply_to: People = ()
    from_: People = Field((), alias="from")
    """At most one: the grant's own address or an alias of it. Default: the grant's address.

    A queue that knows the grant's addresses refuses all others (``senders`` of `SendQueue`).
    """
    subject: StrictStr | None = None
    body: StrictStr | None = None
    """HTML, unless ``is_plaintext``."""
    is_plaintext: StrictBool | None = None
    reply_to_message_id: StrictStr | None = None
    """Google and Microsoft: the provider's message id. IMAP: the RFC 822 Message-ID."""
    attachments: Annotated[tuple[Attachment, ...], BeforeValidator(_attachments)] = ()
    """Each an `Attachment`, a dict of its fields, or a path. The whole request may be up to 25 MB."""
    custom_headers: Annotated[tuple[CustomHeader, ...], BeforeValidator(_headers)] = ()
    metadata: dict[StrictStr, StrictStr] | None = None
    """At most 49 pairs (sendq adds the fiftieth), keys of at most 40 characters, values of at most 500."""
    tracking_options: Annotated[TrackingOptions, BeforeValidator(TrackingOptions.of)] | None = None
    template: Annotated[Template, BeforeValidator(Template.of)] | None = None
    signature_id: StrictStr | None = None
    """The id of a signature stored at Nylas, which appends it to the body."""
    unsubscribe: Annotated[Unsubscribe | None, BeforeValidator(Unsubscribe.or_none)] = None
    """Adds the headers of one-click unsubscribe: an `Unsubscribe`, a dict of its fields, or the category alone. The
    message then has one recipient."""

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
            unsubscribe: Unsubscribe | Mapping[str, str] | str | None = None,
            **names_as_on_the_wire: Any,
        ) -> None: ...

    @classmethod
    def _further_problems(cls, data: Mapping[str, Any], problems: list[Problem]) -> list[Problem]:
        """The wrong values in the fields whose type is right, so that all problems are reported at once."""
        unfit = {top(problem.field) for problem in problems}
        # The first attempt has exhausted an iterator, which now looks like an empty list.
        unfit |= {name.rstrip("_") for name, value in data.items() if isinstance(value, Iterator)}
        known = {*cls.model_fields, "from"}
        sound = {name: value for name, value in data.items() if name in known and name.rstrip("_") not in unfit}
        return [problem for problem in value_problems(cls(**sound)) if top(problem.field) not in unfit]


def people_of(message: Message) -> tuple[tuple[str, tuple[Recipient, ...]], ...]:
    """The fields that hold people, by their names in the API."""
    return (
        ("to", message.to),
        ("cc", message.cc),
        ("bcc", message.bcc),
        ("reply_to", message.reply_to),
        ("from", message.from_),
    )


def value_problems(message: Message, *, provider: str | None = None) -> list[Problem]:
    """The wrong values in ``message`` that can be found without the settings and without measuring anything."""
    problems: list[Problem] = []
    if not message.to:
        problems.append(Problem("to", "has no recipient", "pass at least one"))
    if len(message.from_) > 1:
        problems.append(Problem("from", "has more than one sender", "pass one, or none for the grant's own address"))
    for field, people in people_of(message):
        if people:
            check_people(field, people, problems)
    if message.subject is not None:
        add_fault("subject", header_fault(message.subject), problems)
    if message.body is not None:
        add_fault("body", text_fault(message.body), problems)
    if message.reply_to_message_id is not None:
        check_id("reply_to_message_id", message.reply_to_message_id, problems)
    if message.custom_headers:
        check_headers(message.custom_headers, problems)
    if message.metadata:
        check_metadata(message.metadata, problems)
    if message.tracking_options is not None:
        check_tracking(message.tracking_options, problems)
    if message.template is not None:
        check_template(message.template, problems)
    if message.signature_id is not None:
        check_id("signature_id", message.signature_id, problems)
    if message.unsubscribe is not None:
        recipients = len(message.to) + len(message.cc) + len(message.bcc)
        names = [header.name for header in message.custom_headers]
        problems += unsubscribe_problems(message.unsubscribe, recipients=recipients, names=names)
    if message.attachments:
        problems += attachment_problems(message.attachments, provider=provider)
    return problems
