"""A job that follows another: the options, the rules of its end, and the place of an id in its bytes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import InvalidJob, Message, MimeMessage, Options, Query, Send, State
from sendq.clock import SECOND
from sendq.enqueueing.batches import BulkCall, Changes, Selection, plan_batch
from sendq.enqueueing.planning import plan_sends
from sendq.messages.reply_place import has_place, place_of_id, with_id
from sendq.rules.after import Unless, each_unless, ending, ending_by_facts, stored_unless
from sendq.rules.states import MOVES, Event
from sendq.rules.waiting_job import HELD
from sendq.views import Job
from tasks.calling.thread import is_answer

NOW = 1_780_000_000 * SECOND
OTHER = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"
MAIL = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>42</p>")
FINISHED = MimeMessage(b"From: a@example.com\r\nTo: leyah@example.com\r\nSubject: 42\r\n\r\n42\r\n")


def plan(*options: Options, message: Any = MAIL, indexed: bool = False) -> Any:
    sends = [Send("g1", message, one) for one in options]
    return plan_sends(sends, indexed=indexed, now=NOW, metadata_key="key1")


def problems(*options: Options, message: Any = MAIL, indexed: bool = False) -> dict[str, str]:
    with pytest.raises(InvalidJob) as refused:
        plan(*options, message=message, indexed=indexed)
    return {problem.field: problem.reason for problem in refused.value.problems}


class TestTheOptions:
    @pytest.mark.parametrize("after", [OTHER, UUID(OTHER), Job(OTHER)])
    def test_park_the_job_until_the_other_was_sent(self, after: Any) -> None:
        found = plan(Options(after=after, delay=timedelta(days=3), unless={"replied", "bounced"})).plan
        (job,), (following,) = found.jobs, found.followings
        assert (job["next_at"], job["rule"], job["expires_at"]) == (HELD, "after", None)
        assert (following.after_id, following.unless, following.replies) == (UUID(OTHER), "bounced replied", False)
        assert (following.delay, following.lifetime) == (3 * 86_400 * SECOND, 72 * 3_600 * SECOND)

    def test_cost_a_job_without_them_nothing(self) -> None:
        found = plan(Options()).plan
        assert not found.followings
        assert "rule" not in found.jobs[0]

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"after": "nonsense"}, "after"),
            ({"after": 0}, "after"),
            ({"after": True}, "after"),
            ({"after": b"x"}, "after"),
            ({"after": Job("nonsense")}, "after"),
            ({"reply_to": ["a"]}, "reply_to"),
            ({"delay": timedelta(days=1)}, "delay"),
            ({"unless": "replied"}, "unless"),
            ({"after": OTHER, "delay": 3}, "delay"),
            ({"after": OTHER, "delay": timedelta(seconds=-1)}, "delay"),
            ({"after": OTHER, "delay": timedelta(days=367)}, "delay"),
            ({"after": OTHER, "unless": "opened"}, "unless"),
            ({"after": OTHER, "unless": []}, "unless"),
            ({"after": OTHER, "unless": ["replied", 7]}, "unless"),
            ({"after": OTHER, "unless": 7}, "unless"),
            ({"after": OTHER, "unless": {"replied": 1}}, "unless"),
            ({"after": OTHER, "reply_to": "0192f0c1-2f3e-7c4d-9a5b-0123456789ac"}, "reply_to"),
        ],
    )
    def test_that_are_wrong_are_named(self, given: dict[str, Any], field: str) -> None:
        assert set(problems(Options(**given))) == {field}

    def test_name_an_earlier_message_of_the_call_only(self) -> None:
        found = plan(Options(), Options(after=0), Options(after=1), indexed=True)
        assert [one.after_id for one in found.plan.followings] == found.ids[:2]
        for wrong in (1, 2, -1):
            assert set(problems(Options(), Options(after=wrong), indexed=True)) == {"[1].after"}
        assert set(problems(Options(application="b"), Options(after=0), indexed=True)) == {"[1].after"}

    def test_reply_only_where_an_id_can_be_filled_in(self) -> None:
        assert set(problems(Options(reply_to=OTHER), message=FINISHED)) == {"reply_to"}
        replies = MAIL.model_copy(update={"reply_to_message_id": "m1"})
        assert set(problems(Options(reply_to=OTHER), message=replies)) == {"reply_to"}
        assert set(problems(Options(reply_to=OTHER), message=MAIL.model_copy(update={"body": "x" * 3_100_000}))) == {
            "reply_to"
        }

    def test_are_for_sends_only(self) -> None:
        call = BulkCall(
            "g1", Selection(query=Query(unread=True)), Options(after=OTHER), Changes(True, None, None, None)
        )
        with pytest.raises(InvalidJob) as refused:
            plan_batch(call, now=NOW, metadata_key="key1", most_ids=None)
        assert [problem.field for problem in refused.value.problems] == ["after"]


class TestTheEnd:
    @pytest.mark.parametrize("state", State)
    def test_follows_from_the_state_of_the_other(self, state: State) -> None:
        found = ending(state)
        wanted = {State.DEAD: Event.GIVE_UP, State.EXPIRED: Event.GIVE_UP, State.CANCELLED: Event.CANCEL}
        assert (None if found is None else found.event) == wanted.get(state)
        assert found is None or found.event in MOVES[State.QUEUED]

    def test_of_one_whose_job_is_gone_is_a_dead_letter(self) -> None:
        assert ending(None) is not None

    def test_follows_from_what_became_of_the_mail(self) -> None:
        both = each_unless(stored_unless(["replied", "bounced"]))
        assert set(both) == set(Unless)
        found = ending_by_facts(both, replied=True, delivery="bounced")
        assert found is not None
        assert found.rule == "unless_replied"
        assert ending_by_facts([Unless.BOUNCED], replied=True, delivery=None) is None
        assert ending_by_facts([Unless.REPLIED], replied=False, delivery="bounced") is None
        assert ending_by_facts(both, replied=False, delivery="delivered") is None


class TestThePlace:
    @pytest.mark.parametrize("message_id", ["m1", 'a"b\\c', "é" * 300])
    def test_takes_any_id(self, message_id: str) -> None:
        job = UUID(OTHER)
        body = json.dumps({"reply_to_message_id": place_of_id(job), "a": 1}, separators=(",", ":")).encode()
        assert has_place(body, job)
        filled = with_id(body, job, message_id)
        assert json.loads(filled) == {"reply_to_message_id": message_id, "a": 1}
        assert not has_place(filled, job)


class TestAnAnswer:
    OWN = frozenset({"me@example.com"})

    @pytest.mark.parametrize(
        ("sender", "is_one"),
        [
            ([{"email": "leyah@example.com"}], True),
            ([{"email": "Me@Example.com"}], False),
            ([{"email": "MAILER-DAEMON@google.com"}], False),
            ([{"email": "postmaster@example.com"}], False),
            ([], False), (None, False), ("leyah@example.com", False), ([{"email": 7}, "x"], False),
        ],
    )  # fmt: skip
    def test_is_a_message_of_somebody_else(self, sender: Any, is_one: bool) -> None:
        assert is_answer({"from": sender, "date": 7}, self.OWN, since=7) is is_one

    def test_is_no_draft(self) -> None:
        draft = {"from": [{"email": "leyah@example.com"}], "folders": ["DRAFTS"], "date": 8}
        assert not is_answer(draft, self.OWN, since=7)

    @pytest.mark.parametrize(("date", "is_one"), [(6, False), (7, True), (8, True), (None, True), ("6", True)])
    def test_is_no_older_than_the_mail(self, date: Any, is_one: bool) -> None:
        assert is_answer({"from": [{"email": "leyah@example.com"}], "date": date}, self.OWN, since=7) is is_one
