"""Reading the thread of a message that was sent, with the real client and the simulated API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sendq.ids import new_id
from sendq.simulator import Simulator
from sendq.simulator.store import Message
from tasks.calling.nylas import NylasClient
from tasks.calling.thread import ThreadRead, read_thread


class Mailbox:
    """A mailbox of one grant whose clock the test moves on, in seconds."""

    def __init__(self, api: Simulator) -> None:
        self.api = api
        self.at = 1_800_000_000.0

    def ask(self, question: Any) -> Any:
        application = cast(Any, SimpleNamespace(api_uri=self.api.url, api_key=lambda: "test-key"))

        async def asked() -> Any:
            async with NylasClient() as client:
                return await question(client, application)

        return asyncio.run(asked())

    def send(self, *, reply_to: str | None = None) -> str:
        """Send a mail; returns the id of its message."""
        reply = "" if reply_to is None else f', "reply_to_message_id": "{reply_to}"'
        body = f'{{"to": [{{"email": "leyah@example.com"}}], "subject": "42", "body": "42"{reply}}}'.encode()
        answer = self.ask(lambda client, application: client.send(application, "g1", body, str(new_id())))
        assert answer.status == 200
        return self.api.mailbox[-1].id

    def answer(self, **given: Any) -> Message:
        """An answer comes in, to the mail that was sent last."""
        return self.api.answer(self.api.mailbox[-1], **given)

    def read(self, message_id: str) -> ThreadRead:
        found: ThreadRead = self.ask(lambda client, application: read_thread(client, application, "g1", message_id))
        return found


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    boxes: list[Mailbox] = []
    with Simulator(clock=lambda: boxes[0].at if boxes else 0.0) as simulator:
        boxes.append(Mailbox(simulator))
        simulator.grant("g1", provider="google")
        yield boxes[0]


class TestAThread:
    def test_has_an_answer_once_somebody_wrote_after_the_message(self, mailbox: Mailbox) -> None:
        message = mailbox.send()
        assert mailbox.read(message).replied is False
        mailbox.at += 60
        mailbox.answer()
        assert mailbox.read(message).replied is True

    def test_shows_none_in_the_mail_that_the_message_itself_answers(self, mailbox: Mailbox) -> None:
        question = mailbox.api.message("g1", "question")
        mailbox.at += 1
        message = mailbox.send(reply_to="question")
        assert question.document["thread_id"] == mailbox.api.mailbox[-1].thread_id
        assert mailbox.read(message).replied is False
        mailbox.at += 60
        mailbox.answer()
        assert mailbox.read(message).replied is True

    def test_shows_none_in_the_answer_to_an_earlier_mail_of_the_chain(self, mailbox: Mailbox) -> None:
        first = mailbox.send()
        mailbox.at += 60
        mailbox.answer()
        mailbox.at += 60
        second = mailbox.send(reply_to=first)
        assert (mailbox.read(first).replied, mailbox.read(second).replied) == (True, False)

    def test_counts_an_answer_of_the_same_second(self, mailbox: Mailbox) -> None:
        message = mailbox.send()
        mailbox.answer()
        assert mailbox.read(message).replied is True

    def test_counts_an_answer_without_a_date(self, mailbox: Mailbox) -> None:
        message = mailbox.send()
        del mailbox.answer().document["date"]
        assert mailbox.read(message).replied is True

    @pytest.mark.parametrize(
        "shown", [{"from": []}, {"from": None}, {"date": None}, {"date": "today"}, {"thread_id": ""}]
    )
    def test_cannot_be_read_if_the_message_does_not_say_who_sent_it_and_when(
        self, mailbox: Mailbox, shown: dict[str, Any]
    ) -> None:
        message = mailbox.send()
        document = mailbox.api._store.messages["g1"][message].document
        document.update(shown)
        assert mailbox.read(message).replied is None

    def test_cannot_be_read_if_the_message_is_gone(self, mailbox: Mailbox) -> None:
        assert mailbox.read("nothing").replied is None
