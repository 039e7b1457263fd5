"""The application's own suppression list: a function, asked at each call of `send` about all recipients of the call.

    def suppressed(application: str, category: str | None, addresses: Sequence[str]) -> Iterable[str]:
        return those of the addresses that must get no mail

It runs in a separate thread, so that one that hangs does not hang the call: after `ASK_S` the call raises
`SuppressionListFailed`, as it does if the function raises. Nothing is stored then: to mail people who do not want it is
worse than an error that the caller sees.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

from sendq.enqueueing.options import Send
from sendq.enqueueing.suppressing import OWN_LIST, Hit, mail_of
from sendq.errors import SuppressionListFailed
from sendq.messages.digests import same_form
from sendq.messages.message import Message

Ask = Callable[[str, str | None, Sequence[str]], Iterable[str]]

# A lookup takes milliseconds; a person at a browser waits no longer than this.
ASK_S = 5.0

# Calls of the function at once. More wait, within the same time: a function that hangs holds no more threads.
THREADS = 4


class Question(NamedTuple):
    """What is asked of the function: one call for all mail of an application and a category."""

    application: str
    category: str | None
    addresses: list[str]
    fields: list[tuple[int, str]]  # position of the send, and field, of each address


def questions(sends: Sequence[Send]) -> Iterator[Question]:
    """The questions about these (checked) sends."""
    found: dict[tuple[str, str | None], Question] = {}
    for position, send in enumerate(sends):
        unsubscribe = send.message.unsubscribe if isinstance(send.message, Message) else None
        name = (send.options.application, None if unsubscribe is None else unsubscribe.category)
        question = found.setdefault(name, Question(*name, [], []))
        for field, address in mail_of(send).named:
            question.addresses.append(address)
            question.fields.append((position, field))
    yield from found.values()


def hits_of(question: Question, answer: object) -> list[Hit]:
    """The suppressed recipients that the function has named. Raises `SuppressionListFailed` if it named no strings."""
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise SuppressionListFailed(f"suppressed: returned {type(answer).__name__}; return a list of addresses")
    try:
        named = list(answer)
    except Exception as error:
        raise failed(error) from error
    if not all(isinstance(one, str) for one in named):
        raise SuppressionListFailed("suppressed: returned something that is not a string; return addresses")
    refused = {same_form(one) for one in named}
    return [
        Hit(position, field, OWN_LIST)
        for address, (position, field) in zip(question.addresses, question.fields, strict=True)
        if same_form(address) in refused
    ]


def failed(error: BaseException) -> SuppressionListFailed:
    """The error of a call whose list failed. Its words are left out: they may have an address."""
    if isinstance(error, TimeoutError) and not error.args:
        return SuppressionListFailed(f"suppressed: did not answer within {ASK_S:g} s; nothing was stored")
    return SuppressionListFailed(f"suppressed: raised {type(error).__name__}; nothing was stored")


def check_function(ask: object) -> None:
    """Raise ``ValueError`` for something that cannot be called; None: there is no list."""
    if ask is not None and not callable(ask):
        raise ValueError("suppressed: is not a function; pass one that takes application, category and addresses")


class OwnList:
    """The list of one queue; None: it has none."""

    def __init__(self, ask: Ask | None) -> None:
        check_function(ask)
        self._ask, self._threads = ask, Threads()

    def hits(self, sends: Sequence[Send]) -> list[Hit]:
        """The recipients of these (checked) sends that are on the list. Raises `SuppressionListFailed`."""
        if self._ask is None:
            return []
        found: list[Hit] = []
        for question in questions(sends):
            future = self._threads.run(self._ask, *question[:3])
            try:
                answer = future.result(ASK_S)
            except Exception as error:
                raise failed(error if future.done() else TimeoutError()) from error
            finally:
                future.cancel()
            found += hits_of(question, answer)
        return found


class Threads:
    """Up to `THREADS` threads that do not keep the process from ending. A child of a fork starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid, self._started = 0, 0
        self._work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def run(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call as soon as a thread is free."""
        future: Future[Any] = Future()
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._started, self._work = os.getpid(), 0, SimpleQueue()
            self._work.put((future, call, arguments))
            if self._started < THREADS:
                self._started += 1
                threading.Thread(target=_serve, args=(self._work,), name="sendq-suppressed", daemon=True).start()
        return future


def _serve(work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]]) -> None:
    while True:
        future, call, arguments = work.get()
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)
        del future, call, arguments  # or the last message's addresses stay in memory
