"""The ledger equation of the chaos tests sees each way in which the books can be wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sendq import SendQueue
from sendq.simulator.store import Accepted, Modified
from tests.chaos.equation import Books, Sum, equation
from tests.chaos.load import Load

LOAD = Load(SendQueue("sqlite://"), seed=1)
LOAD.sends = ["a", "b"]
LOAD.batches = {"batch": True}


def job(name: str, state: str = "sent", **given: Any) -> Any:
    values = {"id": name, "operation": "send", "state": state, "object_id": None, "batch_id": None, "lane_id": "lane",
              "due_at": 0, "doubt_at": None, "message_id": f"message-{name}"}  # fmt: skip
    return SimpleNamespace(**values | given)


def modification(name: str, **given: Any) -> Any:
    return job(name, **{"operation": "modify", "batch_id": "batch", "object_id": "object", "message_id": None} | given)


def lane(**given: Any) -> Any:
    values = {"id": "lane", "grant_id": "grant", "turn": None, "next_at": None, "closed_at": None}
    return SimpleNamespace(**values | given)


def out(name: str) -> Accepted:
    return Accepted("grant", f"message-{name}", "thread", {}, None, name, 0.0)


def changed(*, unread: bool) -> Modified:
    return Modified("grant", "object", {"unread": unread}, 0.0)


GOOD = Books([job("a"), job("b"), modification("m")], [lane()], {("batch", "sent"): 1}, wakes=0)
MAILBOX = [out("a"), out("b")]


def add_up(books: Books, mailbox: list[Accepted] = MAILBOX, *, unread: bool = True) -> Sum:
    return equation(books, LOAD, mailbox=mailbox, modified=[changed(unread=unread)])


def with_job(changed_job: Any) -> Books:
    jobs = [changed_job if one.id == changed_job.id else one for one in GOOD.jobs]
    return replace(GOOD, jobs=jobs)


class TestBooksThatAgree:
    def test_hold(self) -> None:
        assert add_up(GOOD).holds

    def test_hold_with_a_job_in_doubt_whether_it_went_out_or_not(self) -> None:
        doubted = with_job(job("b", "in_doubt"))
        assert add_up(doubted).holds
        assert add_up(doubted, [out("a")]).holds
        assert add_up(doubted).in_doubt == 1


class TestWhatIsWrong:
    def test_a_job_that_the_ledger_does_not_have_is_lost(self) -> None:
        assert add_up(replace(GOOD, jobs=[job("a"), modification("m")]), [out("a")]).lost == ["b"]

    @pytest.mark.parametrize("state", ["queued", "sending"])
    def test_a_job_that_is_at_no_end_is_lost(self, state: str) -> None:
        assert add_up(with_job(job("b", state)), [out("a")]).lost == ["b"]

    def test_a_mail_that_went_out_twice_is_seen(self) -> None:
        assert add_up(GOOD, [*MAILBOX, out("b")]).twice == ["b"]

    def test_sent_must_be_in_the_mailbox(self) -> None:
        assert "knows nothing of it" in add_up(GOOD, [out("a")]).wrong[0]

    @pytest.mark.parametrize("state", ["dead", "cancelled", "expired"])
    def test_not_sent_must_not_be_there(self, state: str) -> None:
        assert f"is {state}, and the API accepted it" in add_up(with_job(job("b", state))).wrong[0]

    def test_the_message_that_went_out_is_the_one_that_is_named(self) -> None:
        assert "another message" in add_up(with_job(job("b", message_id="message-a"))).wrong[0]

    def test_the_last_word_on_a_message_stands(self) -> None:
        assert "older modification" in add_up(GOOD, unread=False).wrong[0]

    def test_no_turn_is_open(self) -> None:
        assert "open turn" in add_up(replace(GOOD, lanes=[lane(turn="claimed")])).wrong[0]

    def test_no_lane_sleeps_over_waiting_jobs(self) -> None:
        assert "sleeps" in add_up(with_job(job("b", "queued"))).wrong[0]

    def test_no_wake_row_is_left(self) -> None:
        assert "wake rows" in add_up(replace(GOOD, wakes=2)).wrong[0]

    def test_a_batch_counts_its_jobs(self) -> None:
        assert "counts 2" in add_up(replace(GOOD, changes={("batch", "sent"): 2})).wrong[0]

    def test_a_batch_has_jobs(self) -> None:
        assert "has no jobs" in add_up(replace(GOOD, jobs=[job("a"), job("b")], changes={})).wrong[0]
