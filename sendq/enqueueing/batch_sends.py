"""Batches of sends: many messages as one thing, read, checked and planned a thousand at a time.

Neither the messages nor their rows are ever in memory all at once. A problem of any of them refuses them all, so what
was stored before it was found is rolled back.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from sendq.clock import Micros, micros_in
from sendq.enqueueing.arguments import check_flag, check_key
from sendq.enqueueing.options import Options, Send
from sendq.enqueueing.plan import Planned
from sendq.enqueueing.planning import plan_sends, wants_links
from sendq.enqueueing.spreading import Spread, check_spread, check_window, number_of
from sendq.enqueueing.suppressing import Verdict
from sendq.enqueueing.targets import parse_target
from sendq.errors import InvalidArgument, InvalidJob, Problem, SuppressedRecipients
from sendq.messages.characters import has_lone_surrogate
from sendq.messages.message import Message
from sendq.messages.unsubscribe import Links
from sendq.messages.wire_format import SharedText, shared_text
from sendq.rules.tags import check_tags, stored_tags
from sendq.rules.windows import Window
from sendq.scope import DEFAULT_APPLICATION

# Messages of one step: enough that a round trip does not matter, few enough that memory stays flat.
STEP = 1_000

# A shorter text costs more as a content of its own, which a worker reads with another query, than as a part of its job.
SHARED_LEAST = 2_000

# One transaction of SQLite keeps all other writers waiting.
MOST_SENDS_SQLITE = 100_000

# So many problems are listed one by one; the rest are counted.
PROBLEMS_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch of sends to be made: ``send_many(sends, batch=NewBatch(key="newsletter-may"))``.

    Attributes:
        key: makes a repeated call harmless: it returns the first batch instead of making a second one.
        tags: those of all its jobs, added to what the messages' own options have.
        on_outcome: where to report once, when its last job has ended; see `sendq.enqueueing.targets`.
        open: more messages will be added: `SendQueue.add`, and at last `SendQueue.close_batch`. It cannot end before.
        application: that of all its messages.
        needs_approval: as in `sendq.Options`, for all its messages: one approval of the batch approves them all, once
            the batch is closed.
        window: that of its messages whose own options have none; see `sendq.Window`.
        spread: their due times are spread over so long, evenly and with jitter: from ``due_at``, or from when the
            window opens, and only over times at which it is open. Messages in a list keep their order; those of a
            generator, whose number is not known before, do not. Those that are added to an open batch are spread over
            as long, from then on.
    """

    key: str | None = None
    tags: Mapping[str, str] | None = None
    on_outcome: str | None = None
    open: bool = False
    application: str = DEFAULT_APPLICATION
    needs_approval: bool = False
    window: Window | None = None
    spread: timedelta | None = None


def check_batch(given: NewBatch) -> None:
    """Raise `InvalidJob` with every problem of the batch itself."""
    new: Any = given
    if not isinstance(new, NewBatch):
        remedy = 'create one: NewBatch(key="newsletter-may")'
        raise InvalidJob([Problem("batch", "is not a sendq.NewBatch", remedy)])
    problems = [*check_key(new.key), *check_tags(new.tags)]
    if new.on_outcome is not None and isinstance(target := parse_target(new.on_outcome), Problem):
        problems.append(target)
    problems += [*check_flag("open", new.open), *check_flag("needs_approval", new.needs_approval)]
    if not isinstance(new.application, str) or not new.application:
        problems.append(Problem("application", "is not a name", "pass the name it has in the workers' settings"))
    problems += [*check_window(new.window), *check_spread(new.spread)]
    if problems:
        raise InvalidJob([problem.under("batch") for problem in problems])


class Refused(NamedTuple):
    """In place of a message that could not be made."""

    problems: Sequence[Problem]


class Part(NamedTuple):
    """Some messages of a batch: the position of the first, and how they become rows (again, without the recipients and
    messages that a verdict takes away; its positions are counted from the beginning of the part).
    """

    first: int
    sends: list[Send]
    plan: Callable[[Verdict], Planned]


class Sends:
    """The messages of one call, part by part, once.

    ``number`` and ``lanes`` are those of what has been read so far.
    """

    def __init__(
        self,
        sends: Iterable[Send],
        *,
        batch_id: UUID,
        application: str,
        tags: Mapping[str, str] | None,
        needs_approval: bool = False,
        window: Window | None = None,
        spread: timedelta | None = None,
        chance: Callable[[], float] = random.random,
        most: int | None = None,
        problems_most: int = PROBLEMS_MOST,
        **settings: Any,
    ) -> None:
        """``most``: how many messages the ledger takes in one call. ``settings``: of `plan_sends`."""
        self.number = 0
        self.lanes: set[UUID] = set()
        self._sends, self._application, self._tags, self._gated = sends, application, tags, needs_approval
        self._batch_id, self._settings, self._window = batch_id, settings, window
        self._spread = None if spread is None else Spread(micros_in(spread), number_of(sends), chance)
        self._most, self._problems_most = most, problems_most
        self._digest = hashlib.sha256()
        self._keys: dict[str, int] = {}
        self._texts: dict[str, SharedText] = {}
        # With what the batch adds, by the id of the first. Sends that share options or tags are checked once, by
        # identity, so they must share what is made of them.
        self._merged: dict[int, tuple[Options, Options]] = {}
        self._merged_tags: dict[int, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        self._problems: list[Problem] = []
        self._more_problems = 0
        self._only_suppressed = True
        self._reading = self._read()
        self._ask_links: Callable[[], Links]
        self._links: Links | None = None

    @property
    def digest(self) -> bytes:
        """Of the contents of all messages, in their order."""
        return self._digest.digest()

    def parts(self, links: Callable[[], Links]) -> Iterator[tuple[Part, Planned]]:
        """The messages, `STEP` at a time, with their rows. Once something is wrong with one, the rest is only checked.

        A second call continues after the part that the first one returned last. ``links`` is called if a message has an
        unsubscribe link.

        Raises:
            InvalidJob: with the problems of all messages. An exception of the caller's iterable is passed on.
        """
        self._ask_links = links
        return self._reading

    def _read(self) -> Iterator[tuple[Part, Planned]]:
        for some in _parts(self._sends):
            first, self.number = self.number, self.number + len(some)
            self._merged.clear()  # messages that share nothing would fill it
            self._merged_tags.clear()
            sends = [self._of_batch(send) for send in some]
            part = Part(first, sends, partial(self._planned, sends, first))
            planned = self._checked(part)
            # Suppressed recipients are found while a part is stored, and all of them are to be named.
            too_many = self._most is not None and self.number > self._most
            if planned is not None and self._only_suppressed and not too_many:
                self.lanes.update(row["lane_id"] for row in planned.plan.wakes)
                yield part, planned
        if self._most is not None and self.number > self._most:
            reason = f"has {self.number:,} messages; a SQLite ledger takes {self._most:,} in one call, since no other "
            reason += "process can write to it meanwhile"
            self._problems.insert(0, Problem("sends", reason, "add them to an open batch in parts, or use PostgreSQL"))
            self._only_suppressed = False
        if self._problems:
            if self._more_problems:
                reason = f"has {self._more_problems:,} more problems"
                self._problems.append(Problem("sends", reason, "fix these first"))
            raise (SuppressedRecipients if self._only_suppressed else InvalidJob)(self._problems)

    @property
    def spread_until(self) -> Micros | None:
        """When the spread of the messages that have been planned ends; None: they are not spread."""
        return None if self._spread is None else self._spread.until

    def count_in(self, part: Part, planned: Planned) -> None:
        """Add the contents of these messages to the digest. They were planned ``with_digests``."""
        for _, digest in zip(part.sends, planned.digests, strict=True):
            self._digest.update(digest)

    def refuse(self, part: Part, problems: Iterable[Problem]) -> None:
        """Refuse the call because of suppressed recipients; positions are counted from the beginning of the part."""
        only = self._only_suppressed
        self._add(
            Problem(_position.sub(lambda found: f"[{part.first + int(found[1])}]", one.field), one.reason, one.remedy)
            for one in problems
        )
        self._only_suppressed = only

    def _of_batch(self, send: Any) -> Any:
        """The message with the tags and the window of the batch (its own win), and its need for approval."""
        if not isinstance(send, Send):
            return send
        options = send.options
        known = self._merged.get(id(options))
        if known is None or known[0] is not options:
            known = self._merged[id(options)] = options, self._with_those_of_batch(options)
        return send if known[1] is options else replace(send, options=known[1])

    def _with_those_of_batch(self, options: Options) -> Options:
        more: dict[str, Any] = {"needs_approval": True} if self._gated else {}
        if self._tags and isinstance(options.tags or {}, Mapping):
            more["tags"] = self._tags_with(options.tags)
        if self._window is not None and options.window is None:
            more["window"] = self._window
        return replace(options, **more) if more else options

    def _tags_with(self, own: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if not own or not self._tags:
            return self._tags
        known = self._merged_tags.get(id(own))
        if known is None or known[0] is not own:
            known = self._merged_tags[id(own)] = own, {**self._tags, **own}
        return known[1]

    def _checked(self, part: Part) -> Planned | None:
        """The rows of a part, or None: it has problems."""
        found: list[Problem] = []
        refused: set[int] = set()
        given: Sequence[object] = part.sends
        for position, send in enumerate(given, part.first):
            if isinstance(send, Refused):
                refused.add(position)
                found += [problem.under(f"[{position}]") for problem in send.problems]
            elif isinstance(send, Send):
                found += [problem.under(f"[{position}]") for problem in self._own_problems(send, position)]
        planned = None
        try:
            planned = part.plan(Verdict())
        except InvalidJob as wrong:
            found += (problem for problem in wrong.problems if _place(problem) not in refused)
        self._add(sorted(found, key=_place))
        return None if found else planned

    def _add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._only_suppressed = False
            if len(self._problems) < self._problems_most:
                self._problems.append(problem)
            else:
                self._more_problems += 1

    def _own_problems(self, send: Send, position: int) -> list[Problem]:
        problems = []
        if send.options.application != self._application:
            reason = "is not the application of the batch"
            problems.append(Problem("application", reason, "make a batch for each application"))
        key = send.options.key
        if isinstance(key, str):
            earlier = self._keys.setdefault(key, position)
            if earlier != position:
                reason = f"is the same as the key of [{earlier}]"
                problems.append(Problem("key", reason, "use a different key for each message"))
        return problems

    def _planned(self, sends: list[Send], first: int, verdict: Verdict) -> Planned:
        if self._links is None and any(map(wants_links, sends)):
            self._links = self._ask_links()
        kept = [position for position in range(len(sends)) if position not in verdict.left_out]
        instead = {place: verdict.instead[at] for place, at in enumerate(kept) if at in verdict.instead}
        sends = [sends[position] for position in kept]
        return plan_sends(
            sends, indexed=True, batch_id=self._batch_id, first=first, texts=self._shared(sends), instead=instead,
            links=self._links, spread=self._spread, **self._settings,
        )  # fmt: skip

    def _shared(self, part: list[Send]) -> Mapping[str, SharedText]:
        """The texts that several of these messages have, as contents that are stored once."""
        bodies = Counter(text for send in part if (text := _text_of(send)) is not None)
        for text, number in bodies.items():
            if number > 1 and text not in self._texts:
                if len(self._texts) >= STEP:  # one text for each language or segment, not for each recipient
                    break
                self._texts[text] = shared_text(text)
        return self._texts


_position = re.compile(r"^\[(\d+)\]")


def _place(problem: Problem) -> int:
    found = _position.match(problem.field)
    return int(found[1]) if found else -1


def _text_of(send: Any) -> str | None:
    message = getattr(send, "message", None)
    if not isinstance(message, Message) or message.attachments or message.body is None:
        return None
    if len(message.body) < SHARED_LEAST or has_lone_surrogate(message.body):  # which a check refuses later
        return None
    return message.body


def _parts(sends: Iterable[Any]) -> Iterator[list[Any]]:
    if isinstance(sends, str | bytes | Mapping) or not isinstance(sends, Iterable):
        raise InvalidArgument([Problem("sends", "is not an iterable of sendq.Send", "pass a list or a generator")])
    part: list[Any] = []
    for send in sends:
        part.append(send)
        if len(part) == STEP:
            yield part
            part = []
    if part:
        yield part


def batch_row(
    new: NewBatch, batch_id: UUID, *, now: Micros, number: int, lanes: set[UUID], spread_until: Micros | None
) -> dict[str, Any]:
    """The row of a batch of sends with so many messages."""
    return {
        "id": batch_id,
        "application": new.application,
        "lane_id": next(iter(lanes)) if len(lanes) == 1 else None,
        "operation": "send",
        "target": "message",
        "hard": False,
        "fields": 0,
        "walk": None,
        "listings": 0,
        "open": new.open,
        "total": None if new.open else number,
        "body": None,
        "content_type": None,
        "created_at": now,
        "priority": 1,
        "due_at": now,
        "expires_at": None,
        "on_outcome": new.on_outcome,
        "key": new.key,
        "tags": stored_tags(new.tags),
        "needs_approval": new.needs_approval,
        "time_window": None if new.window is None else str(new.window),
        "spread": None if new.spread is None else micros_in(new.spread),
        "spread_until": spread_until,
    }
