"""The values of a `Message`'s fields: recipients, custom headers, tracking options, templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, StrictBool, StrictStr

from sendq.messages.addresses import parse, trimmed
from sendq.messages.parts import Part


class Recipient(Part):
    """A recipient (or the sender, ``from_``): an address, and the name to show with it.

    White space and invisible characters around the address are removed.
    """

    email: Annotated[StrictStr, AfterValidator(trimmed)]
    name: StrictStr | None = None

    def __init__(self, email: str | None = None, name: str | None = None, /, **data: Any) -> None:
        if email is not None:
            data["email"] = email
        if name is not None:
            data["name"] = name
        super().__init__(**data)

    @classmethod
    def of(cls, item: object) -> Self:
        """As for every part, or from a string: ``leyah@example.com``, ``Leyah <leyah@example.com>``."""
        return cls(*parse(item)) if isinstance(item, str) else super().of(item)


class CustomHeader(Part):
    """An additional header. Microsoft Graph and iCloud drop ``List-Unsubscribe``."""

    name: StrictStr
    value: StrictStr

    if TYPE_CHECKING:

        def __init__(self, /, *, name: str, value: str) -> None: ...


class TrackingOptions(Part):
    """What Nylas tracks. Nylas refuses this field for trial applications (400)."""

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
    """A template stored at Nylas, which makes subject and body from it."""

    id: StrictStr
    strict: StrictBool | None = None
    """Whether a variable without a value is an error (the API's default) or is left in the text."""
    variables: dict[StrictStr, StrictStr] | None = None

    if TYPE_CHECKING:

        def __init__(
            self, /, *, id: str, strict: bool | None = None, variables: Mapping[str, str] | None = None
        ) -> None: ...
