"""The simulator's data: grants, messages, every request, everything accepted.

One lock guards all of it. The server's thread writes, a test's thread reads and waits: each change wakes the callers of
`Store.wait_for`, so no test has to sleep.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

INDEXED_KEYS = frozenset({"key1", "key2", "key3", "key4", "key5"})  # metadata that can be filtered by
_ATTRIBUTES = {"INBOX": "\\Inbox", "SENT": "\\Sent", "DRAFT": "\\Drafts", "TRASH": "\\Trash"}  # of system folders
# Providers whose message ids are RFC 822 ids: they hold characters that must be encoded in a path.
_IMAP_LIKE = frozenset({"imap", "icloud", "yahoo"})
PROVIDERS = frozenset({"google", "microsoft", "ews", "imap", "icloud", "yahoo", "virtual-calendar", "zoom", "nylas"})


@dataclass(slots=True)
class Request:
    """One request, once it was read. ``status`` is None until there is an answer.

    ``operation``: ``send``, ``modify``, ``modify_thread``, ``get``, ``list``, ``delete``, ``folder``, ``grant``,
    ``grants``, ``send_events`` or ``other``. ``message_id``: of the message, or of the thread that is modified as a
    whole.
    ``at`` and ``done_at`` are monotonic seconds, ``wall`` is the simulator's clock. ``job`` is the job's marker: the
    custom header ``X-Sendq-Job`` of the message, otherwise its metadata ``key1``. ``fault`` names the fault, if any.

    ``size`` and ``digest`` (SHA-256) are those of the whole body. ``body`` is all of it, except for form data: there it
    is the part ``message``, or the headers of the part ``mime``, and ``files`` shows all parts (name, filename,
    content_type, size, digest) without what they held; ``malformed`` says why it is no form data.
    """

    at: float
    wall: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    request_id: str
    grant: str | None = None
    operation: str = "other"
    message_id: str | None = None
    folder_id: str | None = None
    key: str | None = None
    size: int = 0
    digest: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    malformed: str = ""
    job: str | None = None
    fault: str | None = None
    status: int | None = None
    replayed: bool = False
    done_at: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted, that is sent, message. ``at`` is the simulator's clock, ``fault`` the fault of its answer.

    ``payload`` has the members of the request; a file's content is replaced by its ``size`` and ``digest`` (SHA-256).
    """

    grant: str
    id: str
    thread_id: str
    payload: dict[str, Any]
    key: str | None
    job: str | None
    at: float
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Modified:
    """A change that was made to a message; a deletion shows as a move to the trash, one for good as ``hard_delete``."""

    grant: str
    id: str
    changes: dict[str, Any]
    at: float


@dataclass(slots=True)
class Notification:
    """A notification: its envelope, and the status of each attempt to deliver it (None: no answer)."""

    envelope: dict[str, Any]
    statuses: list[int | None]

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.envelope["type"])


@dataclass(slots=True)
class Grant:
    """A connected account; ``status`` is ``valid`` or ``invalid``."""

    id: str
    provider: str
    email: str
    status: str
    created_at: int

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "provider": self.provider,
            "email": self.email,
            "grant_status": self.status,
            "blocked": False,
            "scope": ["email"],
            "created_at": self.created_at,
            "updated_at": self.created_at,
        }


@dataclass(slots=True)
class Message:
    """A message of a grant: its document as the API shows it, its headers, and since when index and listing know it."""

    number: int
    document: dict[str, Any]
    headers: list[dict[str, str]] = field(default_factory=list)
    indexed_at: float = 0.0
    listed_at: float = 0.0


class Store:
    """See the module. Every public method takes the lock by itself; hold ``changed`` to read several things at once."""

    def __init__(self, *, clock: Callable[[], float], auto_grants: bool, auto_messages: bool) -> None:
        self.clock = clock
        self.auto_grants, self.auto_messages = auto_grants, auto_messages
        self.changed = threading.Condition()
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        with self.changed:
            self.grants: dict[str, Grant] = {}
            self.messages: dict[str, dict[str, Message]] = defaultdict(dict)
            self._folders: dict[tuple[str, str], str] = {}
            self._by_metadata: dict[tuple[str, str, str], dict[str, Message]] = defaultdict(dict)
            self.requests: list[Request] = []
            self.mailbox: list[Accepted] = []
            self.modified: list[Modified] = []
            self.received = 0
            self.coming_in = 0
            self.broken_off = 0
            self.changed.notify_all()

    def next_id(self) -> int:
        return next(self._numbers)

    # Requests

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A body is coming in."""
        with self.changed:
            self.coming_in += 1
        try:
            yield
        finally:
            with self.changed:
                self.coming_in -= 1
                self.changed.notify_all()

    def came(self, size: int) -> None:
        """A piece of a body came in."""
        with self.changed:
            self.received += size
            self.changed.notify_all()

    def broke_off(self) -> None:
        """A body ended before its end."""
        with self.changed:
            self.broken_off += 1
            self.changed.notify_all()

    def opened(self, request: Request) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def closed(self, request: Request, status: int | None) -> None:
        with self.changed:
            request.status, request.done_at = status, time.monotonic()
            self.changed.notify_all()

    # Grants

    def put_grant(self, grant_id: str, provider: str | None, email: str | None, status: str | None) -> Grant:
        """Make a grant, or change what is given of a known one. Raises ValueError for an unknown provider or status."""
        if provider is not None and provider not in PROVIDERS:
            raise ValueError(f"provider: {provider!r} is none of {sorted(PROVIDERS)}")
        if status is not None and status not in ("valid", "invalid"):
            raise ValueError(f"status: {status!r} is neither 'valid' nor 'invalid'")
        with self.changed:
            known = self.grants.get(grant_id)
            if known is None:
                known = Grant(grant_id, "google", f"{grant_id}@example.com", "valid", int(self.clock()))
                self.grants[grant_id] = known
            known.provider = provider or known.provider
            known.email = email or known.email
            known.status = status or known.status
            self.changed.notify_all()
            return known

    def find_grant(self, grant_id: str) -> Grant | None:
        """The grant with this id or address; unknown ids are made on first sight unless ``auto_grants`` is off."""
        known = self.grants.get(grant_id)
        if known is not None:
            return known
        if "@" in grant_id:
            with self.changed:
                return next((grant for grant in self.grants.values() if grant.email == grant_id), None)
        return self.put_grant(grant_id, None, None, None) if self.auto_grants and grant_id not in ("", "me") else None

    # Messages

    def accept(self, grant: Grant, payload: dict[str, Any], *, key: str | None, job: str | None, fault: str | None,
               index_after: float, listed_after: float = 0.0, keeps_headers: bool = True,
               goes_out: bool = True) -> Message:  # fmt: skip
        """A message goes out: into the mailbox, and among the grant's messages (folder SENT).

        Unless it ``goes_out``, it is only described.
        """
        now = self.clock()
        number = next(self._numbers)
        message_id = _message_id(grant.provider, number)
        replied = self.messages[grant.id].get(payload.get("reply_to_message_id", ""))
        shown = ("subject", "body", "cc", "bcc", "reply_to", "to", "metadata")
        document = _document(
            message_id,
            grant.id,
            int(now),
            thread_id=replied.document["thread_id"] if replied else f"thread-{number:012x}",
            snippet=payload.get("body", "")[:100],
            attachments=[_attachment(number, place, one) for place, one in enumerate(payload.get("attachments", []))],
            folders=["SENT"],
            unread=False,
            **{"from": payload.get("from") or [{"email": grant.email}]},
            **{name: payload[name] for name in shown if name in payload},
        )
        headers = [{"name": "Message-ID", "value": f"<{number:012x}@simulator.invalid>"}]
        if replied:
            headers += [{"name": name, "value": replied.headers[0]["value"]} for name in ("In-Reply-To", "References")]
        headers += payload.get("custom_headers", []) if keeps_headers else []
        message = Message(number, document, headers, now + index_after, now + listed_after)
        if not goes_out:
            return message
        with self.changed:
            self._add(grant.id, message)
            self.mailbox.append(Accepted(grant.id, message_id, document["thread_id"], payload, key, job, now, fault))
            self.changed.notify_all()
        return message

    def put_message(
        self, grant_id: str, message_id: str, *, headers: Sequence[Mapping[str, str]] = (), **members: Any
    ) -> Message:
        """Make a message to be found and modified: unread, in the folder INBOX, unless ``members`` say otherwise."""
        grant = self.put_grant(grant_id, None, None, None)
        number = next(self._numbers)
        sender, receiver = [{"email": "somebody@example.com"}], [{"email": grant.email}]
        given = {"thread_id": f"thread-{number:012x}", "from": sender, "to": receiver, **members}
        document = _document(message_id, grant_id, int(self.clock()), **given)
        own = {"name": "Message-ID", "value": f"<{number:012x}@simulator.invalid>"}
        message = Message(number, document, [own, *(dict(header) for header in headers)])
        with self.changed:
            self._add(grant_id, message)
            self.changed.notify_all()
        return message

    def answer(self, grant_id: str, message_id: str, *, sender: str | None = None) -> Message:
        """An answer to an accepted message comes in, in its thread: from ``sender``, or its first recipient."""
        answered = self.messages[grant_id][message_id].document
        people = {"from": [{"email": sender}] if sender else answered["to"][:1], "to": answered["from"]}
        return self.put_message(
            grant_id, f"answer-{next(self._numbers):x}", thread_id=answered["thread_id"],
            subject=f"Re: {answered['subject']}", folders=["INBOX"], **people,
        )  # fmt: skip

    def put_folder(self, grant_id: str, folder_id: str, attribute: str) -> None:
        """Make a system folder whose id says nothing about it."""
        with self.changed:
            self._folders[grant_id, folder_id] = attribute

    def folder(self, grant_id: str, folder_id: str) -> dict[str, Any]:
        """The folder as the API shows it. One that was not made has the attribute of its name, or none."""
        with self.changed:
            attribute = self._folders.get((grant_id, folder_id)) or _ATTRIBUTES.get(folder_id)
        attributes = [attribute] if attribute else []
        return {"id": folder_id, "grant_id": grant_id, "name": folder_id, "object": "folder", "attributes": attributes}

    def find_message(self, grant_id: str, message_id: str) -> Message | None:
        with self.changed:
            return self.messages[grant_id].get(message_id)

    def modify(self, grant_id: str, message: Message, changes: dict[str, Any]) -> None:
        """Apply changes; ``folders`` and ``metadata`` replace what was there."""
        with self.changed:
            self._unindex(grant_id, message)
            message.document.update(changes)
            self._index(grant_id, message)
            self.modified.append(Modified(grant_id, message.document["id"], dict(changes), self.clock()))
            self.changed.notify_all()

    def remove(self, grant_id: str, message: Message) -> None:
        """Delete a message for good."""
        message_id = message.document["id"]
        with self.changed:
            self._unindex(grant_id, message)
            self.messages[grant_id].pop(message_id, None)
            self.modified.append(Modified(grant_id, message_id, {"hard_delete": True}, self.clock()))
            self.changed.notify_all()

    def thread(self, grant_id: str, thread_id: str) -> list[Message]:
        """The messages of a thread, in the order in which they came."""
        with self.changed:
            messages = self.messages[grant_id].values()
            return [message for message in messages if message.document["thread_id"] == thread_id]

    def newest_first(self, grant_id: str) -> Iterator[Message]:
        """Messages of a grant that a listing shows by now; hold ``changed`` while you read on."""
        now = self.clock()
        return (message for message in reversed(self.messages[grant_id].values()) if message.listed_at <= now)

    def with_metadata(self, grant_id: str, key: str, value: str) -> list[Message]:
        """Messages whose metadata holds this pair and which the index already knows, newest first."""
        now = self.clock()
        with self.changed:
            found = self._by_metadata.get((grant_id, key, value), {})
            return [message for message in reversed(found.values()) if message.indexed_at <= now]

    # Waiting

    def notify(self) -> None:
        """Something beside the store has changed: those who wait look again."""
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], Any], timeout: float) -> Any:
        with self.changed:
            return self.changed.wait_for(predicate, timeout)

    def _add(self, grant_id: str, message: Message) -> None:
        before = self.messages[grant_id].pop(message.document["id"], None)
        if before is not None:
            self._unindex(grant_id, before)
        self.messages[grant_id][message.document["id"]] = message
        self._index(grant_id, message)

    def _index(self, grant_id: str, message: Message) -> None:
        for key, value in message.document["metadata"].items():
            if key in INDEXED_KEYS:
                self._by_metadata[grant_id, key, value][message.document["id"]] = message

    def _unindex(self, grant_id: str, message: Message) -> None:
        for key, value in message.document["metadata"].items():
            if key in INDEXED_KEYS:
                self._by_metadata[grant_id, key, value].pop(message.document["id"], None)


def _document(message_id: str, grant_id: str, date: int, **members: Any) -> dict[str, Any]:
    """A message object of the API with every member it always has; ``members`` replace the empty ones."""
    return {
        "id": message_id,
        "grant_id": grant_id,
        "thread_id": "",
        "object": "message",
        "subject": "",
        "body": "",
        "snippet": "",
        "from": [],
        "to": [],
        "cc": [],
        "bcc": [],
        "reply_to": [],
        "attachments": [],
        "date": date,
        "folders": ["INBOX"],
        "starred": False,
        "unread": True,
        "metadata": {},
        **members,
    }


def _message_id(provider: str, number: int) -> str:
    if provider in _IMAP_LIKE:
        return f"<{number:012x}+a/b@simulator.invalid>"
    return f"{number:016x}"


def _attachment(number: int, place: int, part: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": part.get("id", f"attachment-{number:x}-{place}")}
    for name in ("content_type", "filename", "content_id", "content_disposition", "size"):
        if name in part:
            shown[name] = part[name]
    return shown
