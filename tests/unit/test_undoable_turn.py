"""Changes that can be undone, in a turn: what is read when, what is kept, and what is an attempt of the change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl

import pytest

from sendq.facts.jobs import ClaimedJob
from sendq.rules.changed_fields import bits_of
from sendq.rules.message_state import SELECTED, Verdict, read, written
from sendq.rules.rule_ids import READ_FIRST
from sendq.rules.states import Event
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.undoing import restore, state_after
from tasks.policy.failure import Answer
from tests.support.turn import Process, answer, claim, job

WAS, ASKED = {"unread": True, "folders": ["INBOX"]}, {"unread": False, "folders": ["DONE"]}
UNAVAILABLE = answer(503, {"error": {"type": "service_unavailable", "message": "later"}})


@dataclass
class Mailbox:
    """One message behind a client: the requests, and answers that replace the real ones."""

    message_: dict[str, Any] = field(default_factory=lambda: dict(WAS))
    fails: dict[str, Answer] = field(default_factory=dict)
    after: Callable[[Mailbox, str], None] = lambda mailbox, method: None
    id: str = "m1"
    requests: list[str] = field(default_factory=list)

    async def message(self, application: Any, grant_id: str, name: str, query: Mapping[str, str]) -> Answer:
        assert query["select"] == SELECTED
        return self._answer("GET", name)

    async def modify(self, application: Any, grant_id: str, name: str, body: bytes, *, parameters: str = "") -> Answer:
        assert not dict(parse_qsl(parameters))
        if "PUT" not in self.fails:
            self.message_ |= json.loads(body)
        return self._answer("PUT", name)

    def _answer(self, method: str, name: str) -> Answer:
        self.requests.append(method if name == "m1" else f"{method} {name}")
        found = self.fails.get(method) or answer(200, {"data": {"id": self.id, **self.message_}})
        self.after(self, method)
        return found


def undoable(operation: str, **values: Any) -> ClaimedJob:
    known = {"object_id": "m1", "body": json.dumps(ASKED).encode(), "undoable": True, "fields": bits_of(list(ASKED))}
    return job(operation, **known | values)


def run(one: ClaimedJob, mailbox: Mailbox, **given: Any) -> Process:
    process = Process(**given)
    process.client = cast(NylasClient, mailbox)
    return process.run(claim([one]))


def kept(process: Process) -> list[dict[str, Any]]:
    """The states before the change that were committed, in their order."""
    outcomes = [entry.outcome for entry in process.records if entry.outcome is not None]
    return [read(one.state) for one in outcomes if one.rule == READ_FIRST and one.state is not None]


class TestARead:
    def test_is_followed_by_its_change_in_the_same_turn(self) -> None:
        mailbox = Mailbox()
        process = run(undoable("read"), mailbox)
        assert (mailbox.requests, process.events, kept(process)) == (
            ["GET", "PUT"],
            [Event.RETURN, Event.ACCEPT],
            [WAS],
        )
        assert mailbox.message_ == ASKED

    @pytest.mark.parametrize("fails", [{}, {"GET": UNAVAILABLE}, {"GET": answer(None, fault="timeout")}])
    def test_is_no_attempt_of_the_change(self, fails: dict[str, Answer]) -> None:
        process = run(undoable("read"), Mailbox(fails=fails))
        first = process.records[0].outcome
        assert first is not None
        assert first.attempt is not None
        assert (first.event, first.sent, first.attempt.sent) == (Event.RETURN, "no", "no")

    def test_is_repeated_if_the_change_was_late(self) -> None:
        """The commit took so long that somebody may have changed the message, and did."""

        def move(mailbox: Mailbox, method: str) -> None:
            if mailbox.requests == ["GET"]:
                mailbox.message_["folders"] = ["MINE"]

        mailbox = Mailbox(after=move)
        process = run(undoable("read"), mailbox, commit_s=6.0, turn_time=60_000_000)
        assert mailbox.requests[:2] == ["GET", "GET"]
        assert kept(process)[1:2] == [WAS | {"folders": ["MINE"]}]


class TestAChange:
    def test_that_waited_is_made_if_the_message_is_as_it_is_kept(self) -> None:
        mailbox = Mailbox()
        process = run(undoable("modify", snapshot=(written(WAS), None)), mailbox)
        assert (mailbox.requests, process.events, kept(process)) == (["GET", "PUT"], [Event.ACCEPT], [])

    @pytest.mark.parametrize("snapshot", [None, (written(WAS | {"folders": ["OLD"]}), None), (written({}), None)])
    def test_that_waited_first_keeps_what_others_have_changed(self, snapshot: Any) -> None:
        mailbox = Mailbox()
        process = run(undoable("modify", snapshot=snapshot), mailbox)
        assert (mailbox.requests, process.events) == (["GET", "PUT"], [Event.RETURN, Event.ACCEPT])
        assert (kept(process), mailbox.message_) == ([WAS], ASKED)

    @pytest.mark.parametrize("waited", [{"doubt_at": 1}, {"generation": 1}])
    def test_that_may_have_been_made_keeps_what_was_there_before_it(self, waited: dict[str, Any]) -> None:
        mailbox = Mailbox(dict(ASKED))
        process = run(undoable("modify", snapshot=(written(WAS), None), **waited), mailbox)
        assert (process.events, kept(process)) == ([Event.ACCEPT], [])

    def test_that_was_certainly_not_made_keeps_what_others_set_even_if_it_asks_for_the_same(self) -> None:
        assert kept(run(undoable("modify", snapshot=(written(WAS), None)), Mailbox(dict(ASKED)))) == [ASKED]

    @pytest.mark.parametrize(("method", "sent"), [("GET", "no"), ("PUT", "maybe")])
    def test_whose_read_failed_was_certainly_not_made(self, method: str, sent: str) -> None:
        mailbox = Mailbox(fails={method: UNAVAILABLE})
        process = run(undoable("modify", snapshot=(written(WAS), None)), mailbox)
        (entry,) = [one.outcome for one in process.records if one.outcome is not None]
        assert entry.attempt is not None
        assert (mailbox.requests[-1], entry.sent, entry.attempt.sent) == (method, sent, sent)

    def test_that_cannot_be_undone_is_one_request(self) -> None:
        mailbox = Mailbox()
        run(undoable("modify", undoable=False), mailbox)
        assert mailbox.requests == ["PUT"]


class TestAMessageThatGetsAnotherIdWhenItIsMoved:
    def test_is_restored_by_the_id_that_the_answer_to_the_change_showed(self) -> None:
        mailbox = Mailbox(dict(ASKED), id="m2")
        one = undoable("modify")
        after = state_after(one, answer(200, {"data": {"id": "m2", **ASKED}}))
        assert after is not None
        client, application = cast(NylasClient, mailbox), cast(Application, object())
        restoring = one._replace(operation="restore", snapshot=(written(WAS), after))
        found = asyncio.run(restore(client, client, application, "g1", restoring, metadata_key="sendq"))
        assert (found[1], mailbox.requests, mailbox.message_) == (Verdict.RESTORE, ["GET m2", "PUT m2"], WAS)

    def test_is_not_noted_if_the_id_stays(self) -> None:
        assert state_after(undoable("modify"), answer(200, {"data": {"id": "m1", **ASKED}})) is None
