"""Suppressed recipients of a call of `send`: which of its messages are refused, and which go to fewer people.

Who is suppressed comes from the ledger (`sendq.ledger.suppressing`) and from the application's own list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sendq.enqueueing.options import Send
from sendq.errors import Problem
from sendq.messages.fields import Recipient
from sendq.messages.message import Message
from sendq.messages.recipients import Recipients, recipients_of
from sendq.rules.suppression import Suppressed

OWN_LIST = "the application's own list"

_TO = ("to[", "mime.To[")


class Hit(NamedTuple):
    """A suppressed recipient: the position of its send, the field that names it, and why."""

    position: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a call: problems, messages with fewer recipients, the fields that they have lost, and messages
    that are left out because their ``to`` would be empty.
    """

    problems: Sequence[Problem] = ()
    instead: Mapping[int, Message] = field(default_factory=dict)
    dropped: Mapping[int, Sequence[Hit]] = field(default_factory=dict)
    left_out: Mapping[int, Sequence[Hit]] = field(default_factory=dict)


def mail_of(send: Send) -> Recipients:
    """The recipients of a (checked) send."""
    return recipients_of(send.message)


def judge(sends: Sequence[Send], hits: Iterable[Hit], *, indexed: bool, of_batch: bool = False) -> Verdict:
    """What becomes of these sends because of their suppressed recipients. With ``indexed``, as in `plan_sends`.

    A message whose ``to`` would be empty is left out of a batch (``of_batch``) if the caller drops recipients, and
    refused elsewhere.
    """
    by_send: dict[int, dict[str, Hit]] = {}
    for hit in hits:
        by_send.setdefault(hit.position, {}).setdefault(hit.field, hit)
    problems: list[Problem] = []
    instead: dict[int, Message] = {}
    dropped: dict[int, Sequence[Hit]] = {}
    left_out: dict[int, Sequence[Hit]] = {}
    for position, found in sorted(by_send.items()):
        send = sends[position]
        if of_batch and send.options.suppressed == Suppressed.DROP and _empties_to(send, found):
            left_out[position] = tuple(found.values())
            continue
        refused = _refused(send, found)
        if refused:
            problems += [problem.under(f"[{position}]") for problem in refused] if indexed else refused
            continue
        assert isinstance(send.message, Message)
        instead[position] = _without(send.message, found)
        dropped[position] = tuple(found.values())
    return Verdict(problems, instead, dropped, left_out)


def _empties_to(send: Send, found: Mapping[str, Hit]) -> bool:
    return all(name in found for name, _ in mail_of(send).named if name.startswith(_TO))


def _refused(send: Send, found: Mapping[str, Hit]) -> list[Problem]:
    problems = [Problem(hit.field, _says(hit, send), "leave it out") for hit in found.values()]
    if send.options.suppressed != Suppressed.DROP:
        remedy = "leave it out, or pass suppressed='drop' to send to the others"
        return [Problem(one.field, one.reason, remedy) for one in problems]
    if not isinstance(send.message, Message):
        remedy = "leave it out: a finished message is not changed"
        return [Problem(one.field, one.reason, remedy) for one in problems]
    if _empties_to(send, found):
        return [Problem(one.field, f"{one.reason}, and to has no other recipient", one.remedy) for one in problems]
    return []


def _says(hit: Hit, send: Send) -> str:
    if hit.reason == OWN_LIST:
        return f"is suppressed by {OWN_LIST}"
    return f"is on the suppression list of application {send.options.application!r} ({hit.reason})"


def _without(message: Message, fields: Collection[str]) -> Message:
    def left(name: str, people: tuple[Recipient, ...]) -> list[Recipient]:
        return [one for index, one in enumerate(people) if f"{name}[{index}]" not in fields]

    names = {"to": message.to, "cc": message.cc, "bcc": message.bcc}
    return message.model_copy(update={name: left(name, people) for name, people in names.items()})
