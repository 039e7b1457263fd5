"""Bulk changes through real processes: walks, threads, deletions, and a worker that is killed again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from sendq import Batch, BatchView, Query, State
from sendq.ledger.db import schema
from sendq.simulator import Fault, Request
from tests.support.servers import PgServer
from tests.support.system import System, mail, running, running_on
from tests.support.waiting import LIMIT_S, eventually


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker for all tests here; each uses grants of its own."""
    with running_on(request.param, request, tmp_path_factory.mktemp("system")) as system:
        system.start_worker()
        yield system


def finished(system: System, batch: Batch, *, limit_s: float = LIMIT_S) -> BatchView:
    def is_finished() -> BatchView | None:
        view = system.queue.batch(batch.id)
        return view if view.finished_at is not None else None

    return eventually(is_finished, f"the end of batch {batch.id}", limit_s=limit_s)  # type: ignore[return-value]


def requests(system: System, grant: str, operation: str) -> list[Request]:
    return [one for one in system.api.requests if one.grant == grant and one.operation == operation]


def fill(system: System, grant: str, count: int, *, threads: int = 1) -> list[str]:
    ids = [f"{grant}-{number:04}" for number in range(count)]
    for number, message in enumerate(ids):
        system.api.message(grant, message, thread_id=f"{grant}-t{number % threads}")
    return ids


class TestModifyMatching:
    def test_lists_all_pages_before_the_first_change_and_changes_each_message_once(self, system: System) -> None:
        system.api.behaviour.shifting_pages = True  # a change before the last page would lose messages
        ids = fill(system, "tidied", 90)
        system.api.message("tidied", "read-already", unread=False)
        batch = system.queue.modify_matching("tidied", Query(unread=True), unread=False, provider="google")
        view = finished(system, batch)
        lists, puts = requests(system, "tidied", "list"), requests(system, "tidied", "modify")
        assert sorted(one.message_id or "" for one in puts) == ids
        assert max(one.at for one in lists) < min(one.at for one in puts)
        assert all(int(parse_qs(one.path.partition("?")[2])["limit"][0]) <= 20 for one in lists)
        assert (view.total, dict(view.counts), view.progress) == (90, {State.SENT: 90}, 1)
        assert view.walk is not None
        assert (view.walk.state, view.walk.pages, view.walk.found) == ("done", 5, 90)

    def test_after_a_quota_error_asks_for_smaller_pages(self, system: System) -> None:
        fill(system, "quota", 12)
        system.api.will(Fault.status(503), grant="quota", operation="list", times=1)
        batch = system.queue.modify_matching("quota", Query(unread=True), starred=True)
        assert finished(system, batch).total == 12
        limits = [parse_qs(one.path.partition("?")[2])["limit"] for one in requests(system, "quota", "list")]
        assert limits == [["20"], ["5"], ["5"], ["5"]]

    def test_with_an_answer_that_is_cut_asks_again(self, system: System) -> None:
        fill(system, "cut", 3)
        system.api.will(Fault.body(200, b'{"data": [{"id": "cut-0'), grant="cut", operation="list", times=1)
        batch = system.queue.modify_matching("cut", Query(unread=True), starred=True)
        assert dict(finished(system, batch).counts) == {State.SENT: 3}


class TestThreads:
    def test_are_changed_message_by_message(self, system: System) -> None:
        ids = fill(system, "threads", 50, threads=2)
        fill(system, "threads-other", 5)
        batch = system.queue.modify("threads", thread_ids=["threads-t0", "threads-t1"], starred=True)
        view = finished(system, batch)
        assert sorted(one.message_id or "" for one in requests(system, "threads", "modify")) == ids
        assert requests(system, "threads", "modify_thread") == []
        assert view.walk is not None
        assert (view.walk.listings, view.walk.listed) == (2, 2)

    def test_are_one_request_each_when_wanted_whole_and_keep_their_order(self, system: System) -> None:
        fill(system, "whole", 6, threads=2)
        system.api.will(Fault.status(504), grant="whole", times=1)
        changes = [
            system.queue.modify("whole", thread_ids=["whole-t0"], whole_threads=True, unread=number % 2 == 0)
            for number in range(4)
        ]
        for batch in changes:
            finished(system, batch)
        done = [json.loads(one.body)["unread"] for one in requests(system, "whole", "modify_thread")
                if one.status == 200]  # fmt: skip
        assert done == [True, False, True, False]
        assert [one.id for one in system.api.modified if one.grant == "whole"][:3] == [
            "whole-0000", "whole-0002", "whole-0004",
        ]  # fmt: skip


class TestDelete:
    def test_moves_to_the_trash(self, system: System) -> None:
        fill(system, "trash", 3)
        assert dict(finished(system, system.queue.delete("trash", ["trash-0000", "trash-0002"])).counts) == {
            State.SENT: 2
        }
        changed = {one.id: one.changes for one in system.api.modified if one.grant == "trash"}
        assert changed == {"trash-0000": {"folders": ["TRASH"]}, "trash-0002": {"folders": ["TRASH"]}}

    def test_for_good_finds_nothing_the_second_time_and_has_been_made(self, system: System) -> None:
        system.api.behaviour.hard_delete = True
        fill(system, "hard", 2)
        # Made, and the answer lost: the repeat finds nothing any more.
        system.api.will(Fault.drop(accepted=True), grant="hard", operation="delete", times=1)
        batch = system.queue.delete("hard", ["hard-0000", "hard-0001"], hard=True)
        assert dict(finished(system, batch).counts) == {State.SENT: 2}
        assert [one.status for one in requests(system, "hard", "delete")].count(404) == 1
        assert all(one.path.endswith("?hard_delete=true") for one in requests(system, "hard", "delete"))
        again = finished(system, system.queue.delete("hard", ["hard-0000"], hard=True))
        assert [error.rule for error in again.errors] == ["message_gone"]

    def test_matching_a_query(self, system: System) -> None:
        fill(system, "spam", 30)
        system.api.message("spam", "kept", folders=["KEPT"])
        batch = system.queue.delete_matching("spam", Query(in_="INBOX"))
        assert finished(system, batch).total == 30
        assert "kept" not in {one.id for one in system.api.modified if one.grant == "spam"}

    def test_keeps_its_place_among_the_changes_of_its_message(self, system: System) -> None:
        """⚑ Jobs for one object run strictly one after another, whatever they do."""
        system.api.message("ordered", "m")
        system.api.will(Fault.status(504), grant="ordered", times=1)
        first = system.queue.modify("ordered", ["m"], starred=True)
        second = system.queue.delete("ordered", ["m"])
        third = system.queue.modify("ordered", ["m"], folders=["INBOX"])
        for batch in (first, second, third):
            finished(system, batch)
        done = [one.operation for one in system.api.requests if one.grant == "ordered" and one.status == 200]
        assert done == ["modify", "delete", "modify"]


class TestMetadataOfAMessageThatWeSent:
    def test_keeps_our_mark_without_a_further_request(self, system: System) -> None:
        job = system.queue.send("marked", mail())
        eventually(lambda: system.state(job.id) is State.SENT, "the send")
        ours = system.queue.job(job.id).message_id
        assert ours is not None
        system.api.message("marked", "foreign")
        finished(system, system.queue.modify("marked", [ours, "foreign"], metadata={"project": "x"}))
        bodies = {one.message_id: json.loads(one.body) for one in requests(system, "marked", "modify")}
        assert bodies[ours] == {"metadata": {"project": "x", "key1": job.id}}
        assert bodies["foreign"] == {"metadata": {"project": "x"}}
        assert {one.operation for one in system.api.requests if one.grant == "marked"} == {"send", "modify"}


@pytest.mark.long
class TestAWalkWhoseWorkerIsKilledAgainAndAgain:
    PAGES, KILLS = 40, 3

    def has_met(self, system: System, requests: int) -> bool:
        return len(system.api.requests) >= requests

    def test_loses_no_page_and_counts_none_twice(self, pg_server: PgServer, tmp_path: Path) -> None:
        lives = {"SENDQ_BEAT_INTERVAL_S": "0.5", "SENDQ_STALE_AFTER_S": "4", "SENDQ_UNCLAIMED_AFTER_S": "3"}
        with pg_server.ledger() as url, running(url, tmp_path, latency=0.03) as system:
            system.api.behaviour.shifting_pages = True
            ids = fill(system, "g", self.PAGES * 20)
            batch = system.queue.modify_matching("g", Query(unread=True), unread=False, provider="google")
            for kill in range(1, self.KILLS + 1):
                worker = system.start_worker(**lives)
                wanted = kill * self.PAGES // (self.KILLS + 1)
                eventually(partial(self.has_met, system, wanted), f"{wanted} requests")
                worker.kill()
            assert requests(system, "g", "modify") == []
            system.start_worker(**lives)
            view = finished(system, batch)
            assert view.walk is not None
            assert (view.walk.pages, view.walk.found, view.total) == (self.PAGES, len(ids), len(ids))
            assert dict(view.counts) == {State.SENT: len(ids)}
            assert sorted({one.message_id or "" for one in requests(system, "g", "modify")}) == ids
            assert system.count(schema.job) == self.PAGES + len(ids)
            # At most one page is asked for again for each death.
            assert len(requests(system, "g", "list")) <= self.PAGES + self.KILLS
