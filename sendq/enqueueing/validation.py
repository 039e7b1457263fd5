"""What a message and a modification must look like to become a job: every rule, checked before anything is stored.

Each check returns all the problems that it finds, and none of them shows the value. The other arguments of a call
(grant, key, times, ids) are checked in `sendq.enqueueing.arguments`. Limits are those that Nylas documents for "Send a
message", "Update a message", attachments and metadata, and the provider's own where it is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from sendq.errors import Problem
from sendq.messages.attachment import content_problems
from sendq.messages.characters import text_fault
from sendq.messages.content import MOST_BYTES
from sendq.messages.field_checks import add_fault, check_metadata
from sendq.messages.forms import MAX_MULTIPART_BYTES, MIME, most_bytes
from sendq.messages.message import Message, people_of, value_problems
from sendq.messages.mime import MimeMessage, mime_problems
from sendq.messages.payload import freeze_send
from sendq.messages.wire_format import request_of

# Exchange Online's default limit per message, to, cc and bcc together. An administrator may raise it to 1,000, of which
# nothing can be known here; above the limit the message is rejected for all recipients.
MAX_RECIPIENTS_MICROSOFT = 500

# A JSON string takes at most six bytes per character (\u0000); a person, header or pair takes less than 64 beside its
# texts, and everything else in a request (field names, both marks, tracking) less than 8,192.
_BYTES_PER_CHARACTER, _BYTES_PER_PART, _BYTES_BESIDE = 6, 64, 8_192
_STAND_IN_JOB_ID = "0" * 36


def check_message(
    message: Message, *, provider: str | None, metadata_key: str, max_request_bytes: int = MAX_MULTIPART_BYTES
) -> list[Problem]:
    """Everything that keeps ``message`` from being sent.

    ``provider`` is the grant's (``microsoft``, ``google``, …), or None while it is not known. ``metadata_key`` is the
    name of our own metadata pair. ``max_request_bytes`` bounds the text of the request, both of our marks included; the
    whole of it keeps the limit of its form.
    """
    problems = value_problems(message, provider=provider)
    if message.metadata and metadata_key in message.metadata:
        problems.append(_reserved_key(metadata_key))
    if provider == "microsoft" and len(message.to) + len(message.cc) + len(message.bcc) > MAX_RECIPIENTS_MICROSOFT:
        reason = f"have more than {MAX_RECIPIENTS_MICROSOFT} recipients together, the most that Microsoft allows"
        problems.append(Problem("to, cc, bcc", reason, "send several messages"))
    # What cannot be encoded has no size yet. And few messages come near the limit, so only those are measured.
    unencodable = any("surrogate" in problem.reason for problem in problems)
    most = _most_bytes(message)
    if not unencodable and most > max_request_bytes:
        size = len(freeze_send(message, job_id=_STAND_IN_JOB_ID, metadata_key=metadata_key))
        if size > max_request_bytes:
            reason = f"makes the request {size:,} bytes long; the limit is {max_request_bytes:,}"
            problems.append(Problem(_largest(message), reason, "shorten it, or link to large content"))
    problems += content_problems(message.attachments)
    # With other problems there is no request whose size could be given, and a short text has room for its form data.
    if not problems and (message.attachments or most > MAX_MULTIPART_BYTES - _BYTES_BESIDE):
        problems += size_problems(message, metadata_key=metadata_key)
    return problems


def check_mime(message: MimeMessage, *, provider: str | None) -> list[Problem]:
    """Everything that keeps a finished message from being sent."""
    most = MAX_RECIPIENTS_MICROSOFT if provider == "microsoft" else None
    return mime_problems(message, most_recipients=most) or size_problems(message, metadata_key="")


def size_problems(message: Message | MimeMessage, *, metadata_key: str) -> list[Problem]:
    """Whether the whole request is too large, its contents included. They have been measured, and all else is sound."""
    request = request_of(message, job_id=_STAND_IN_JOB_ID, metadata_key=metadata_key)
    length, most = request.length, most_bytes(request.form)
    if length <= most:
        return []
    cut_off = any(piece.content.measure().size > MOST_BYTES for piece in request.pieces)
    size = f"at least {length:,}" if cut_off else f"{length:,}"
    long = f"the request {size} bytes long; the limit is {most:,}"
    if request.form == MIME:
        return [Problem("mime", f"makes {long}", "remove large parts, and link to them")]
    if isinstance(message, Message) and not message.attachments:
        return [Problem(_largest(message), f"makes {long}", "shorten it, or link to large content")]
    return [Problem("attachments", f"make {long}", "send several messages, or link to large files")]


def check_changes(
    *,
    unread: object,
    starred: object,
    folders: object,
    metadata: object,
    provider: str | None,
    metadata_key: str = "key1",
) -> list[Problem]:
    """Everything that keeps a modification from being made; None stands for "leave as it is".

    ``unread`` and ``starred`` are bools, ``folders`` a list of folder ids that replaces the message's set, ``metadata``
    a dict of strings that replaces the message's pairs.
    """
    problems: list[Problem] = []
    if unread is None and starred is None and folders is None and metadata is None:
        problems.append(Problem("changes", "are empty", "set unread, starred, folders or metadata"))
    for field, flag in (("unread", unread), ("starred", starred)):
        if flag is not None and not isinstance(flag, bool):
            problems.append(Problem(field, "is not True or False", "pass a bool"))
    if folders is not None:
        _check_folders(folders, provider, problems)
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            problems.append(Problem("metadata", "is not a mapping", "pass a dict of strings"))
        else:
            check_metadata(metadata, problems)
            if metadata_key in metadata:
                problems.append(_reserved_key(metadata_key))
    return problems


def _reserved_key(metadata_key: str) -> Problem:
    reason = "is the pair in which sendq stores the job's id"
    return Problem(
        f"metadata[{metadata_key}]", reason, "use another key, or set metadata_key to one that you do not use"
    )


def _check_folders(folders: object, provider: str | None, problems: list[Problem]) -> None:
    # A list or tuple and nothing lazier: it is read twice, here and when it is frozen.
    if not isinstance(folders, list | tuple):
        problems.append(Problem("folders", "is not a list", "pass a list of folder ids, even for a single one"))
        return
    if provider == "microsoft" and len(folders) != 1:
        problems.append(Problem("folders", "is not exactly one folder, which Microsoft requires", "pass one folder id"))
    for index, folder in enumerate(folders):
        field = f"folders[{index}]"
        if not isinstance(folder, str):
            problems.append(Problem(field, "is not a string", "pass a folder id"))
        elif not folder:
            problems.append(Problem(field, "is empty", "pass a folder id"))
        else:
            add_fault(field, text_fault(folder), problems)


def _most_bytes(message: Message) -> int:
    """An upper bound of the request's size, without encoding anything."""
    parts, characters = 0, len(message.body or "") + len(message.subject or "")
    characters += len(message.reply_to_message_id or "") + len(message.signature_id or "")
    for _, people in people_of(message):
        for person in people:
            parts += 1
            # Twice: the ASCII form of a domain can be longer than the domain.
            characters += 2 * len(person.email) + len(person.name or "")
    for header in message.custom_headers:
        parts += 1
        characters += len(header.name) + len(header.value)
    if message.metadata:
        parts += len(message.metadata)
        characters += sum(len(key) + len(value) for key, value in message.metadata.items())
    if message.tracking_options is not None:
        tracking = message.tracking_options
        characters += len(tracking.label or "") + len(tracking.domain_name or "")
    if message.template is not None:
        variables = message.template.variables or {}
        parts += len(variables)
        characters += len(message.template.id) + sum(map(len, chain(variables, variables.values())))
    return _BYTES_BESIDE + parts * _BYTES_PER_PART + characters * _BYTES_PER_CHARACTER


def _largest(message: Message) -> str:
    """The field to blame for a request that is too large."""
    sizes = {
        field: sum(len(person.email) + len(person.name or "") for person in people)
        for field, people in people_of(message)
    }
    sizes["custom_headers"] = sum(len(header.name) + len(header.value) for header in message.custom_headers)
    sizes["subject"], sizes["body"] = len(message.subject or ""), len(message.body or "")
    variables = message.template.variables or {} if message.template is not None else {}
    sizes["template.variables"] = sum(len(name) + len(value) for name, value in variables.items())
    return max(sizes, key=lambda field: sizes[field])
