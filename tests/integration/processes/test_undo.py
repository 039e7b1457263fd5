"""Undo of bulk changes through real processes: every message as before, and those touched meanwhile left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sendq import InvalidArgument, Query, State
from sendq.ledger.db import schema
from sendq.simulator import Fault
from tests.support.mailboxes import CHANGES, fill, finished, remove, states, touch
from tests.support.system import System, running_on
from tests.support.waiting import LIMIT_S, eventually


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker for all tests here; each uses grants of its own."""
    with running_on(request.param, request, tmp_path_factory.mktemp("system")) as system:
        system.start_worker()
        yield system


class TestUndo:
    @pytest.mark.parametrize("how", ["ids", "query", "threads"])
    def test_restores_every_message_and_leaves_alone_those_touched_since(self, system: System, how: str) -> None:
        grant = f"undo-{how}"
        before = fill(system, grant, 24)
        names = list(before)
        if how == "ids":
            batch = system.queue.modify(grant, names, **CHANGES, undoable=True)
        elif how == "query":
            batch = system.queue.modify_matching(grant, Query(subject="tidy"), **CHANGES, undoable=True)
        else:
            with system.api._store.changed:
                threads = {one.document["thread_id"] for one in system.api._store.messages[grant].values()}
            batch = system.queue.modify(grant, thread_ids=sorted(threads), **CHANGES, undoable=True)
        assert dict(finished(system, batch).counts) == {State.SENT: 24}
        assert list(states(system, grant).values()) == [CHANGES] * 24
        touch(system, grant, names[3], unread=True)
        touch(system, grant, names[5], folders=["private 9"])
        remove(system, grant, names[7])
        touched = states(system, grant)
        view = finished(system, system.queue.undo(batch.id, by="anna", reason="a mistake"))
        assert dict(view.counts) == {State.SENT: 21, State.CANCELLED: 3}
        assert [(one.rule, one.number, list(one.object_ids)) for one in view.left] == [
            ("changed_since", 2, [names[3], names[5]]),
            ("gone_since", 1, [names[7]]),
        ]
        left = {names[3]: touched[names[3]], names[5]: touched[names[5]]}
        assert states(system, grant) == {name: left.get(name, before[name]) for name in touched}
        with pytest.raises(InvalidArgument, match="is an undo itself"):
            system.queue.undo(view.id)

    def test_does_not_touch_messages_whose_change_failed_or_never_ran(self, system: System) -> None:
        before = fill(system, "failed", 6)
        names = list(before)
        system.api.will(Fault.status(400), grant="failed", operation="modify", times=1)
        batch = system.queue.modify("failed", [*names, "missing"], starred=True, undoable=True)
        assert dict(finished(system, batch).counts) == {State.SENT: 5, State.DEAD: 2}
        (failed,) = {
            row.object_id for row in system.rows(schema.job)
            if str(row.batch_id) == batch.id and row.state == State.DEAD and row.object_id != "missing"
        }  # fmt: skip
        touch(system, "failed", failed, starred=True)
        requests = len([one for one in system.api.requests if one.message_id == failed])
        view = finished(system, system.queue.undo(batch.id))
        assert dict(view.counts) == {State.SENT: 5}
        assert states(system, "failed") == before | {failed: before[failed] | {"starred": True}}
        assert len([one for one in system.api.requests if one.message_id == failed]) == requests

    def test_of_a_change_whose_answer_was_lost_restores_what_was_there_before_it(self, system: System) -> None:
        before = fill(system, "lost", 4)
        system.api.will(Fault.drop(), grant="lost", operation="modify", times=2)
        batch = system.queue.modify("lost", list(before), starred=True, folders=["DONE"], undoable=True)
        finished(system, batch)
        assert states(system, "lost") != before
        system.api.will(Fault.drop(), grant="lost", operation="modify", times=2)
        finished(system, system.queue.undo(batch.id))
        assert states(system, "lost") == before


class TestChangesOfOthers:
    """What others do between the snapshot and the change is what an undo restores."""

    def test_an_earlier_batch_that_was_late_is_not_undone_with_a_later_one(self, system: System) -> None:
        names = list(fill(system, "two", 3))
        system.api.will(Fault.status(503), grant="two", operation="modify", times=2)
        earlier = system.queue.modify("two", names, folders=["PROJECT"])
        batch = system.queue.modify_matching("two", Query(subject="tidy"), folders=["DONE"], undoable=True)
        finished(system, earlier)
        finished(system, batch)
        view = finished(system, system.queue.undo(batch.id))
        assert dict(view.counts) == {State.SENT: 3}
        assert [one["folders"] for one in states(system, "two").values()] == [["PROJECT"]] * 3

    def test_a_move_while_the_batch_waits_for_approval_is_kept(self, system: System) -> None:
        before = fill(system, "approval", 3)
        names = list(before)
        batch = system.queue.modify_matching(
            "approval", Query(subject="tidy"), folders=["DONE"], undoable=True, needs_approval=True
        )
        eventually(lambda: system.queue.batch(batch.id).unapproved == 3 or None, "jobs to approve", limit_s=LIMIT_S)
        touch(system, "approval", names[0], folders=["MINE"])
        touch(system, "approval", names[1], folders=["DONE"])
        touched = states(system, "approval")
        system.queue.approve(batch_id=batch.id, by="anna")
        finished(system, batch)
        finished(system, system.queue.undo(batch.id))
        assert states(system, "approval") == touched

    def test_a_move_between_two_requests_of_the_change_is_kept(self, system: System) -> None:
        (name,) = fill(system, "between", 1)
        system.api.will(Fault.status(503), grant="between", operation="modify", times=2)
        batch = system.queue.modify("between", [name], folders=["DONE"], undoable=True)
        eventually(lambda: _puts(system, name) or None, "the first request of the change", limit_s=LIMIT_S)
        touch(system, "between", name, folders=["MINE"])
        finished(system, batch)
        assert states(system, "between")[name]["folders"] == ["DONE"]
        finished(system, system.queue.undo(batch.id))
        assert states(system, "between")[name]["folders"] == ["MINE"]

    def test_a_change_is_made_right_after_its_read_by_two_requests(self, system: System) -> None:
        (name,) = fill(system, "lean", 1)
        finished(system, system.queue.modify("lean", [name], folders=["DONE"], undoable=True))
        assert [one.method for one in system.api.requests if one.message_id == name] == ["GET", "PUT"]


class TestLostAnswers:
    @pytest.mark.parametrize("fault", [Fault.drop(accepted=True), Fault.status(504, accepted=True)])
    def test_changes_whose_answers_were_lost_are_undone_after_a_cancel(self, system: System, fault: Fault) -> None:
        grant = f"cancelled-{fault.http_status or 'drop'}"
        before = fill(system, grant, 3)
        system.api.will(fault, grant=grant, operation="modify", times=50)
        batch = system.queue.modify(grant, list(before), folders=["DONE"], undoable=True)

        def all_changed() -> bool | None:
            return all(one["folders"] == ["DONE"] for one in states(system, grant).values()) or None

        eventually(all_changed, "the changes", limit_s=LIMIT_S)
        system.queue.cancel_batch(batch.id)
        assert State.SENT not in finished(system, batch).counts
        system.api._faults.clear()
        view = finished(system, system.queue.undo(batch.id))
        assert dict(view.counts) == {State.SENT: 3}
        assert states(system, grant) == before


def _puts(system: System, message: str) -> list[Any]:
    return [one for one in system.api.requests if one.message_id == message and one.method == "PUT"]
