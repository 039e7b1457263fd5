"""From a call to the rows it stores: all problems found before anything touches a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from sendq import NEVER, InvalidJob, Message, Options, Send, SendQueue, Window
from sendq.clock import SECOND, micros
from sendq.enqueueing import options as options_module
from sendq.enqueueing.batch_sends import Sends
from sendq.enqueueing.batches import BulkCall, Changes, Selection, plan_batch
from sendq.enqueueing.options import option_problems, with_key
from sendq.enqueueing.plan import Planned
from sendq.enqueueing.planning import plan_sends
from sendq.errors import Problem
from sendq.ids import lane_id
from sendq.messages.unsubscribe import Links
from sendq.rules.expiry import EXPIRY

START = 1_780_000_000 * SECOND
TOMORROW = datetime(2026, 7, 1, tzinfo=UTC)
MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>42</p>")


def plan(*sends: Send, indexed: bool = True) -> Planned:
    return plan_sends(sends, indexed=indexed, now=START, metadata_key="key1")


def send(grant: str = "g1", **options: Any) -> Send:
    return Send(grant, MESSAGE, Options(**options))


def modification(ids: Any, *, now: int = START, **options: Any) -> tuple[Planned, list[dict[str, Any]]]:
    call = BulkCall("g1", Selection(message_ids=ids), Options(**options), Changes(unread=False))
    planned, _ = plan_batch(call, now=now, metadata_key="key1")
    return planned, [dict(job) for job in planned.plan.jobs]


def jobs(planned: Planned) -> list[dict[str, Any]]:
    return [dict(job) for job in planned.plan.jobs]


class TestTheCapOfALane:
    @pytest.mark.parametrize("cap", [0, -1, True, "5", 2.5])
    def test_that_lets_nothing_in_or_is_no_number_is_refused(self, cap: Any) -> None:
        with pytest.raises(ValueError, match="lane_cap: is not a positive integer"):
            SendQueue("sqlite://", lane_cap=cap)


class TestTheOptionsOfManySends:
    def test_are_checked_for_each_although_most_are_the_same(self) -> None:
        common = Options(priority=1, tags={"campaign": "may"})
        sends = [Send("g1", MESSAGE, with_key(common, key)) for key in ("a", "", "b", "k" * 256)]
        sends += [Send("", MESSAGE, common), Send("g1", MESSAGE, replace(common, priority=True)),
                  Send("g1", MESSAGE, replace(common, tags={"": "x"})), Send("g1", MESSAGE, common)]  # fmt: skip
        with pytest.raises(InvalidJob) as wrong:
            plan(*sends)
        fields = [problem.field for problem in wrong.value.problems]
        assert fields == ["[1].key", "[3].key", "[4].grant_id", "[5].priority", "[6].tags"]

    @pytest.mark.parametrize("tags", [None, {"campaign": "may"}], ids=["no tags", "tags"])
    def test_of_a_batch_with_tags_are_checked_once(
        self, tags: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked: list[Options] = []

        def check(grant_id: object, options: Options, *, now: int) -> list[Problem]:
            checked.append(options)
            return option_problems(grant_id, options, now=now)

        monkeypatch.setattr(options_module, "option_problems", check)
        common = Options(tags=tags)
        both = [
            Send("g1", MESSAGE, options) for options in (common, with_key(common, "a"), common, with_key(common, "b"))
        ]
        sends = Sends(
            both, batch_id=UUID(int=1), application="default", tags={"tenant": "7"}, now=START, metadata_key="key1",
            window=Window("09:00-17:00", tz="UTC"),
        )  # fmt: skip
        ((part, _),) = sends.parts(lambda: Links(bytes(32), None))
        assert len(checked) == 1
        assert all(send.options.tags == {"tenant": "7", **(tags or {})} for send in part.sends)

    def test_have_another_key_and_are_the_same_otherwise(self) -> None:
        common = Options(priority="low", tags={"a": "b"}, due_at=TOMORROW, needs_approval=True, after="x", key="old")
        assert with_key(common, "new") == replace(common, key="new")


class TestTheExpiry:
    def test_of_a_send_is_72_hours_after_its_due_time(self) -> None:
        assert EXPIRY == 72 * 3600 * SECOND
        (at_once,) = jobs(plan(send()))
        (later,) = jobs(plan(send(due_at=TOMORROW)))
        assert at_once["expires_at"] == START + 72 * 3600 * SECOND
        assert later["expires_at"] == micros(TOMORROW) + 72 * 3600 * SECOND

    def test_of_a_modification_never_comes(self) -> None:
        _, rows = modification(["m1"])
        assert rows[0]["expires_at"] is None

    def test_of_a_send_never_comes_if_the_caller_says_so(self) -> None:
        (row,) = jobs(plan(send(expires_at=NEVER)))
        assert row["expires_at"] is None

    def test_is_the_callers_if_given(self) -> None:
        (row,) = jobs(plan(send(expires_at=TOMORROW)))
        _, rows = modification(["m1"], expires_at=TOMORROW)
        assert row["expires_at"] == rows[0]["expires_at"] == micros(TOMORROW)


class TestTheOrderOfACall:
    def test_is_that_of_its_due_times_and_of_its_ids(self) -> None:
        for rows in (jobs(plan(*(send() for _ in range(50)))), modification([f"m{n}" for n in range(50)])[1]):
            assert [row["next_at"] for row in rows] == sorted({row["next_at"] for row in rows})
            assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)

    def test_for_one_object_is_kept_against_an_earlier_bulk_call_with_the_same_due_time(self) -> None:
        # Its place in the first call must not put it behind the second one: due_at and then id is what decides.
        _, first = modification([f"m{n}" for n in range(500)], due_at=TOMORROW)
        _, second = modification(["m499"], due_at=TOMORROW)
        assert (first[499]["due_at"], first[499]["id"]) < (second[0]["due_at"], second[0]["id"])

    def test_does_not_change_what_was_asked_for(self) -> None:
        rows = modification([f"m{n}" for n in range(3)], due_at=TOMORROW)[1]
        assert {row["due_at"] for row in rows} == {micros(TOMORROW)}


class TestADueTime:
    def test_in_the_past_means_at_once(self) -> None:
        (row,) = jobs(plan(send(due_at=datetime(2020, 1, 1, tzinfo=UTC))))
        assert row["next_at"] == START

    def test_in_another_time_zone_is_the_same_instant(self) -> None:
        local = TOMORROW.astimezone(datetime.now().astimezone().tzinfo)
        (row,) = jobs(plan(send(due_at=local)))
        assert row["next_at"] == micros(TOMORROW)


class TestProblems:
    def test_of_every_message_of_a_call_are_listed_with_its_position(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(send(), send(grant="me"), Send("g1", Message(to=["leyah@example.com"]), Options(priority="urgent")))
        assert {problem.field for problem in caught.value.problems} >= {"[1].grant_id", "[2].priority"}

    def test_of_one_message_have_no_position(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(send(grant=""), indexed=False)
        assert [problem.field for problem in caught.value.problems] == ["grant_id"]

    def test_are_found_together(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(
                send(
                    grant="a@example.com",
                    key="",
                    priority="urgent",
                    due_at=datetime(2026, 7, 1),  # noqa: DTZ001 - the mistake
                    provider="hotmail",
                    application="",
                    on_outcome="",
                ),
                indexed=False,
            )
        fields = {problem.field for problem in caught.value.problems}
        assert fields == {"grant_id", "key", "priority", "due_at", "provider", "application", "on_outcome"}

    def test_name_a_key_that_two_messages_of_a_call_share(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(send(key="a"), send(key="b"), send(key="a"))
        (problem,) = caught.value.problems
        assert problem.field == "[2].key"
        assert "[0]" in problem.reason

    def test_do_not_arise_when_two_applications_use_one_key(self) -> None:
        assert len(jobs(plan(send(key="a"), send(key="a", application="other")))) == 2

    def test_name_what_is_not_a_message(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            plan(Send("g1", {"to": "leyah@example.com"}, Options()))  # type: ignore[arg-type]
        assert [problem.field for problem in caught.value.problems] == ["[0].message"]
        assert "leyah" not in str(caught.value)

    def test_of_no_change_to_make_are_named(self) -> None:
        call = BulkCall("g1", Selection(message_ids=["m1"]), Options(), Changes())
        with pytest.raises(InvalidJob):
            plan_batch(call, now=START, metadata_key="key1")

    @pytest.mark.parametrize("ids", ["m1", [], ["m1", "m1"], ["m1", ""], ["m1", None]])
    def test_of_the_ids_are_named(self, ids: Any) -> None:
        with pytest.raises(InvalidJob) as caught:
            modification(ids)
        assert all(problem.field.startswith("message_ids") for problem in caught.value.problems)

    def test_of_a_generator_come_out_as_they_are(self) -> None:
        class Broken(Exception):
            pass

        def ids() -> Iterator[str]:
            yield "m1"
            raise Broken

        with pytest.raises(Broken):
            modification(ids())


class TestTheWakeRows:
    def test_are_one_for_each_lane_with_the_earliest_due_time_by_priority(self) -> None:
        planned = plan(
            send("g1", due_at=TOMORROW), send("g2"), send("g1", priority="high"), send("g1"), send("g1", priority="low")
        )
        rows = {row["grant_id"]: row for row in planned.plan.wakes}
        assert set(rows) == {"g1", "g2"}
        # The places in the call: g1's high one is the third, its normal one the fourth.
        assert (rows["g1"]["high_at"], rows["g1"]["normal_at"], rows["g1"]["low_at"]) == (
            START + 2,
            START + 3,
            START + 4,
        )
        assert rows["g2"]["high_at"] is None
        assert rows["g1"]["lane_id"] == lane_id("default", "g1")

    def test_never_say_later_than_the_first_job(self) -> None:
        planned, rows = modification(["m1", "m2"])
        assert planned.plan.wakes[0]["normal_at"] == min(row["next_at"] for row in rows)


class TestTheKeyRow:
    def test_stands_for_the_content_and_not_for_the_time_of_the_call(self) -> None:
        first = plan_sends([send(key="a")], indexed=False, now=START, metadata_key="key1")
        later = plan_sends([send(key="a")], indexed=False, now=START + SECOND, metadata_key="key1")
        assert first.plan.keys[0]["digest"] == later.plan.keys[0]["digest"]

    @pytest.mark.parametrize(
        "other", [send(grant="g2", key="a"), send(key="a", due_at=TOMORROW), send(key="a", expires_at=TOMORROW)]
    )
    def test_tells_other_content(self, other: Send) -> None:
        assert plan(send(key="a")).plan.keys[0]["digest"] != plan(other).plan.keys[0]["digest"]


class TestOurMetadataKey:
    def test_is_one_that_nylas_can_search(self) -> None:
        with pytest.raises(ValueError, match="key1, key2"):
            SendQueue("sqlite://", metadata_key="job")
