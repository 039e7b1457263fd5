"""What the fields of a `Message` hold: recipients, custom headers, tracking options, a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import StrictBool, StrictStr

from sendq.messages.addresses import parse
from sendq.messages.parts import Part


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
