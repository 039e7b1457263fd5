"""From a bulk call to the rows of its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sendq import InvalidJob, Options, Query, SendQueue
from sendq.clock import SECOND
from sendq.enqueueing.batches import BulkCall, Changes, Selection, plan_batch
from sendq.enqueueing.plan import Planned
from sendq.enqueueing.shared import Shared
from sendq.messages.forms import split_parameters

START = 1_780_000_000 * SECOND
READ = Changes(unread=False)


def call(
    *, messages: Any = None, threads: Any = None, changes: Changes | None = READ, query: Any = None, **more: Any
) -> BulkCall:
    which = Selection(messages, threads) if query is None else Selection(query=query)
    return BulkCall("g1", which, Options(**more.pop("options", {})), changes, **more)


def plan(wanted: BulkCall) -> Planned:
    return plan_batch(wanted, now=START, metadata_key="key1")[0]


def batch(wanted: BulkCall) -> dict[str, Any]:
    return dict(plan(wanted).plan.batch or {})


def jobs(wanted: BulkCall) -> list[dict[str, Any]]:
    return [dict(job) for job in plan(wanted).plan.jobs]


class TestIdsOfMessages:
    def test_are_a_job_each(self) -> None:
        rows = jobs(call(messages=["m1", "m2"]))
        assert [(row["operation"], row["object_id"]) for row in rows] == [("modify", "m1"), ("modify", "m2")]
        assert batch(call(messages=["m1", "m2"]))["total"] == 2

    def test_to_be_deleted_too(self) -> None:
        wanted = call(messages=["m1"], changes=None, hard=True)
        assert [row["operation"] for row in jobs(wanted)] == ["delete"]
        made = batch(wanted)
        assert (made["operation"], made["hard"], made["body"]) == ("delete", True, b"\n")


class TestIdsOfThreads:
    def test_are_a_listing_each_before_there_is_any_change(self) -> None:
        wanted = plan(call(threads=["t1", "t2"]))
        rows = [dict(row) for row in wanted.plan.jobs]
        assert [(row["operation"], row["object_id"]) for row in rows] == [("list", None)] * 2
        pages = [payload["body"] for payload in wanted.plan.payloads]
        assert pages == [f"limit=20&select=id&thread_id={thread}".encode() for thread in ("t1", "t2")]
        made = dict(wanted.plan.batch or {})
        assert (made["total"], made["walk"], made["listings"]) == (None, "threads", 2)

    def test_are_a_change_each_if_whole_threads_are_wanted(self) -> None:
        wanted = call(threads=["t1", "t2"], whole_threads=True)
        assert [(row["operation"], row["object_id"]) for row in jobs(wanted)] == [("modify", "t1"), ("modify", "t2")]
        made = batch(wanted)
        assert (made["total"], made["walk"], made["target"]) == (2, None, "thread")


class TestAQuery:
    def test_is_one_listing(self) -> None:
        wanted = plan(call(query=Query(unread=True)))
        assert [row["operation"] for row in wanted.plan.jobs] == ["list"]
        made = dict(wanted.plan.batch or {})
        assert (made["total"], made["walk"], made["listings"]) == (None, "query", 1)


class TestACall:
    @pytest.mark.parametrize(
        ("wanted", "word"),
        [
            (call(), "both missing"),
            (call(messages=["m"], threads=["t"]), "both set"),
            (call(messages=[], threads=None), "message_ids: is empty"),
            (call(threads=["t", "t"]), "thread_ids[1]"),
            (call(threads=["t", ""]), "pass a thread id"),
            (call(messages=["m"], whole_threads=True), "without thread_ids"),
            (call(threads=["t"], whole_threads="yes"), "whole_threads"),
            (call(messages=["m"], changes=None, hard=1), "hard"),
            (call(threads=["t"], whole_threads=True, changes=Changes(metadata={"a": "b"})), "only on its messages"),
            (call(messages=["m"], changes=Changes(folders=["a", "b"]), options={"provider": "microsoft"}), "Microsoft"),
            (call(query=Query(unread=True, to="a@b.com"), options={"provider": "microsoft"}), "Microsoft"),
            (call(query="unread"), "sendq.Query"),
            (
                call(messages=["m"], changes=Changes(metadata={f"a{n}": "b" for n in range(50)})),
                "sendq needs one of the 50",
            ),
        ],
    )
    def test_that_cannot_be_made_is_refused_with_field_and_remedy(self, wanted: BulkCall, word: str) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(wanted)
        (problem,) = caught.value.problems
        assert word in str(problem)

    def test_without_a_query_where_one_is_wanted_is_refused(self) -> None:
        with pytest.raises(InvalidJob, match=r"sendq\.Query"):
            plan(BulkCall("g1", Selection(query=None), Options(), READ))  # type: ignore[arg-type]


class TestTheKeyOfACall:
    def test_tells_every_kind_of_call_from_every_other(self) -> None:
        def digest(**more: Any) -> bytes:
            (key,) = plan(call(**more, options={"key": "k"})).plan.keys
            return bytes(key["digest"])

        calls: list[dict[str, Any]] = [
            {"messages": ["a"]},
            {"messages": ["a"], "changes": Changes(unread=True)},
            {"messages": ["a"], "changes": None},
            {"messages": ["a"], "changes": None, "hard": True},
            {"threads": ["a"]},
            {"threads": ["a"], "whole_threads": True},
            {"threads": ["a"], "changes": None},
            {"query": Query(thread_id="a")},
            {"query": Query(thread_id="a", unread=True)},
            {"query": Query(thread_id="a"), "changes": None},
            {"query": Query(thread_id="a"), "changes": None, "hard": True},
        ]
        assert len({digest(**one) for one in calls}) == len(calls)
        assert [digest(**one) for one in calls] == [digest(**one) for one in calls]

    def test_does_not_depend_on_the_order_of_ids(self) -> None:
        one, other = (
            plan(call(messages=ids, options={"key": "k"})).plan.keys[0]["digest"] for ids in (["a", "b"], ["b", "a"])
        )
        assert one == other


class TestManyIds:
    def test_are_bounded_where_one_call_would_keep_all_others_waiting(self, tmp_path: Path) -> None:
        queue = SendQueue(f"sqlite:///{tmp_path / 'no.db'}")
        with pytest.raises(InvalidJob, match="message_ids: has 100,001 ids; a SQLite ledger takes 100,000 in one call"):
            queue.modify("g1", (f"m{number}" for number in range(100_001)), unread=False)
        queue.close()

    def test_are_as_many_as_the_ledger_takes(self) -> None:
        wanted = call(threads=["t1", "t2"], whole_threads=True)
        assert plan_batch(wanted, now=START, metadata_key="key1", most_ids=2)[1] == 2
        with pytest.raises(InvalidJob, match="thread_ids: has 2 ids"):
            plan_batch(wanted, now=START, metadata_key="key1", most_ids=1)


class TestASharedMailbox:
    SHARED = Shared("team@example.com", "f1")
    WHERE = b"shared_from=team%40example.com"

    def test_is_named_by_each_request_that_changes_or_deletes(self) -> None:
        assert batch(call(messages=["m1"], shared=self.SHARED))["body"] == self.WHERE + b'\n{"unread":false}'
        deleted = batch(call(messages=["m1"], changes=None, shared=self.SHARED))["body"]
        assert split_parameters(deleted) == (self.WHERE.decode(), b"")

    def test_is_listed_for_the_messages_of_threads(self) -> None:
        made = plan(call(threads=["t1"], shared=self.SHARED))
        (page,) = (payload["body"] for payload in made.plan.payloads)
        assert page == b"limit=20&select=id&shared_folder_id=f1&" + self.WHERE + b"&thread_id=t1"
        assert dict(made.plan.batch or {})["body"] == self.WHERE + b'\n{"unread":false}'

    def test_is_named_with_its_folder_for_whole_threads(self) -> None:
        made = batch(call(threads=["t1"], whole_threads=True, shared=self.SHARED))
        assert made["body"] == b"shared_folder_id=f1&" + self.WHERE + b'\n{"unread":false}'

    def test_of_a_query_is_that_of_the_changes_too(self) -> None:
        query = Query(shared_from="team@example.com", shared_folder_id="f1")
        assert batch(call(query=query))["body"] == self.WHERE + b'\n{"unread":false}'
        assert batch(call(query=query, changes=None))["body"] == self.WHERE + b"\n"
        assert batch(call(query=Query(in_="x", query_imap=True)))["body"] == b'query_imap=true\n{"unread":false}'

    @pytest.mark.parametrize(
        ("wanted", "field"),
        [
            (call(threads=["t1"], shared=Shared("team@example.com")), "shared_folder_id"),
            (call(messages=["m1"], shared=Shared("team")), None),
            (call(messages=["m1"], shared=Shared("a team")), "shared_from"),
            (call(messages=["m1"], shared=SHARED, options={"provider": "google"}), "shared_from"),
            (call(messages=["m1"], shared=Shared(query_imap=True), options={"provider": "google"}), "query_imap"),
            (call(messages=["m1"], shared=Shared(query_imap=True), options={"provider": "imap"}), None),
            (call(threads=["t1"], shared=Shared(query_imap=True)), "query_imap"),
        ],
    )
    def test_that_cannot_be_asked_for_is_refused(self, wanted: BulkCall, field: str | None) -> None:
        if field is None:
            plan(wanted)
            return
        with pytest.raises(InvalidJob, match=field) as caught:
            plan(wanted)
        assert "team" not in str(caught.value)

    def test_is_part_of_what_a_key_names(self) -> None:
        digests = [
            plan(call(messages=["m1"], shared=shared, options={"key": "k"})).plan.keys[0]["digest"]
            for shared in (Shared(), self.SHARED, Shared("other@example.com"))
        ]
        assert len(set(digests)) == 3
