"""Messages outside of the account's own mailbox, and past Nylas's store of them: the query parameters for both.

    shared_from         Microsoft: whose mailbox, an address or a grant id       listings, messages, threads
    shared_folder_id    Microsoft: which of its folders                          listings, threads
    query_imap          IMAP, Yahoo, iCloud: ask the IMAP server itself          listings, messages

Nylas declares them for these requests, and none of them for sends: a message is sent *as* a shared mailbox by its
``from``. Sources: the official specification of the parameters, and "Shared Outlook folders".
"""

from __future__ import annotations

from dataclasses import dataclass

from sendq.enqueueing.arguments import check_grant
from sendq.errors import Problem
from sendq.messages.addresses import fault, trimmed, wire_form
from sendq.messages.characters import text_fault

MAX_FOLDER_ID = 512
_IMAP = ("imap", "yahoo", "icloud")


@dataclass(frozen=True, slots=True, repr=False)
class Shared:
    """Where the messages of a bulk call are, if not in the account's own mailbox as Nylas knows it."""

    shared_from: str | None = None
    shared_folder_id: str | None = None
    query_imap: bool | None = None

    def parameters(self, *names: str) -> dict[str, str]:
        """Those of these parameters that are set, as they are sent."""
        found: dict[str, str] = {}
        if self.shared_from is not None:
            whose = trimmed(self.shared_from)
            found["shared_from"] = wire_form(whose) or whose
        if self.shared_folder_id is not None:
            found["shared_folder_id"] = self.shared_folder_id
        if self.query_imap is not None:
            found["query_imap"] = "true" if self.query_imap else "false"
        return {name: found[name] for name in names if name in found}

    def __repr__(self) -> str:
        return "Shared(…)"


def check_shared(shared: Shared, *, provider: str | None, needs_folder: bool) -> list[Problem]:
    """What is wrong with the parameters. ``needs_folder``: some request of the call needs the folder with the owner."""
    problems: list[Problem] = []
    for field, value in (("shared_from", shared.shared_from), ("shared_folder_id", shared.shared_folder_id)):
        if value is None:
            continue
        if provider not in (None, "unknown", "microsoft"):
            problems.append(Problem(field, f"is for Microsoft accounts, not for {provider}", "leave it out"))
        reason = _owner_fault(value) if field == "shared_from" else _folder_fault(value)
        if reason is not None:
            problems.append(Problem(field, reason, "correct it"))
    if shared.shared_from is not None and shared.shared_folder_id is None and needs_folder:
        problems.append(Problem("shared_folder_id", "is missing, and shared_from needs it", "set both"))
    asks_imap: object = shared.query_imap
    if asks_imap is not None:
        if not isinstance(asks_imap, bool):
            problems.append(Problem("query_imap", "is not True or False", "pass a bool"))
        if provider not in (None, "unknown", *_IMAP):
            reason = f"is for IMAP, Yahoo and iCloud accounts, not for {provider}"
            problems.append(Problem("query_imap", reason, "leave it out"))
    return problems


def _owner_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return "is not a string"
    value = trimmed(value)
    if "@" in value:
        return None if wire_form(value) is not None else fault(value)
    return "is neither an address nor the id of a grant" if check_grant(value) else None


def _folder_fault(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_FOLDER_ID:
        return f"is not a string of 1 to {MAX_FOLDER_ID} characters"
    return text_fault(value)
