"""The arguments of a call beside its message: what each may be, and what is said of the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.enqueueing.arguments import check_grant, check_ids, check_key, check_priority, check_times
from sendq.errors import Problem

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def told(problems: list[Problem]) -> dict[str, str]:
    return {problem.field: problem.reason for problem in problems}


class TestGrant:
    @pytest.mark.parametrize("grant", ["0197a1b2-0000-7000-8000-000000000001", "g", "g" * 255, "a.b_c~d", "mei"])
    def test_an_id_is_fine(self, grant: str) -> None:
        assert check_grant(grant) == []

    @pytest.mark.parametrize(
        ("grant", "word"),
        [
            ("", "is empty"),
            (None, "not a string"),
            (5, "not a string"),
            (b"g", "not a string"),
            (float("nan"), "not a string"),
            ("me", "'me'"),
            ("ME", "'me'"),
            ("leyah@example.com", "is an email address"),
            ("a/b", "path"),
            ("/", "path"),
            ("..", "path"),
            ("a?b", "path"),
            ("a#b", "path"),
            ("a%2Fb", "path"),
            ("a\\b", "path"),
            ("a b", "space"),
            (" a", "space"),
            ("a\n", "space"),
            ("a\0", "space"),
            ("a\u00a0", "space"),
            ("é", "outside ASCII"),
            ("\ud800", "outside ASCII"),
            ("g" * 256, "more than 255"),
        ],
    )
    def test_anything_else_is_refused_at_once(self, grant: object, word: str) -> None:
        (problem,) = check_grant(grant)
        assert problem.field == "grant_id"
        assert word in problem.reason

    def test_all_that_is_wrong_is_listed(self) -> None:
        assert len(check_grant("leyah nyah/x@example.com" + "x" * 300)) == 4

    @given(st.text(max_size=8), st.sampled_from(["@example.com", "/", " ", "é", "\0"]))
    def test_no_problem_shows_it(self, before: str, after: str) -> None:
        assert "geheim" not in "".join(map(str, check_grant(f"{before}geheim{after}")))


class TestKey:
    @pytest.mark.parametrize("key", [None, "invoice-42", "k" * 255, "schlüssel 👋", " "])
    def test_none_or_a_text_is_fine(self, key: object) -> None:
        assert check_key(key) == []

    @pytest.mark.parametrize(
        ("key", "word"),
        [
            ("", "is empty"),
            (42, "not a string"),
            (b"k", "not a string"),
            ("k" * 256, "more than 255"),
            ("k\0", "NUL"),
            ("k\ud800", "lone surrogate"),
        ],
    )
    def test_anything_else_is_refused(self, key: object, word: str) -> None:
        assert word in told(check_key(key))["key"]


class TestPriority:
    @pytest.mark.parametrize("priority", [0, 1, 2, "high", "normal", "low"])
    def test_there_are_three(self, priority: object) -> None:
        assert check_priority(priority) == []

    @pytest.mark.parametrize("priority", [-1, 3, 1.0, True, None, "urgent", "", float("nan"), float("inf"), [0]])
    def test_and_no_others(self, priority: object) -> None:
        assert set(told(check_priority(priority))) == {"priority"}


class TestTimes:
    @pytest.mark.parametrize(
        ("due_at", "expires_at"),
        [
            (None, None),
            (NOW + HOUR, None),
            (NOW - 365 * 24 * HOUR, None),
            (None, NOW + HOUR),
            (NOW, NOW + HOUR),
            (NOW + HOUR, (NOW + 2 * HOUR).astimezone(timezone(-9 * HOUR))),
        ],
    )
    def test_aware_ones_in_order_are_fine(self, due_at: object, expires_at: object) -> None:
        assert check_times(due_at, expires_at, NOW) == []

    @pytest.mark.parametrize(
        ("value", "word"),
        [
            (datetime(2030, 1, 1), "no time zone"),  # noqa: DTZ001
            (float("nan"), "not a datetime"),
            (float("inf"), "not a datetime"),
            (1_900_000_000, "not a datetime"),
            ("2030-01-01T12:00:00Z", "not a datetime"),
            (NOW.date(), "not a datetime"),
            (datetime.max.replace(tzinfo=UTC), "not between 1970 and 2200"),
            (datetime.min.replace(tzinfo=UTC), "not between 1970 and 2200"),
            (datetime(2201, 1, 1, tzinfo=UTC), "not between 1970 and 2200"),
        ],
    )
    @pytest.mark.parametrize("field", ["due_at", "expires_at"])
    def test_anything_else_is_refused(self, field: str, value: object, word: str) -> None:
        times: dict[str, Any] = {"due_at": None, "expires_at": None, field: value}
        assert word in told(check_times(**times, now=NOW))[field]

    @pytest.mark.parametrize("expires_at", [NOW, NOW - HOUR])
    def test_an_expiry_lies_ahead(self, expires_at: datetime) -> None:
        assert told(check_times(None, expires_at, NOW)) == {"expires_at": "is in the past"}

    @pytest.mark.parametrize("expires_at", [NOW + HOUR, NOW + 2 * HOUR])
    def test_an_expiry_comes_after_the_due_time(self, expires_at: datetime) -> None:
        assert told(check_times(NOW + 2 * HOUR, expires_at, NOW)) == {"expires_at": "is not later than due_at"}

    def test_both_are_reported(self) -> None:
        assert set(told(check_times(5, 5, NOW))) == {"due_at", "expires_at"}


class TestIds:
    @pytest.mark.parametrize("make", [list, tuple, iter])
    def test_any_iterable_will_do(self, make: Any) -> None:
        assert check_ids(make(["b", "<a+b/c@example.com>"])) == (["b", "<a+b/c@example.com>"], [])

    @pytest.mark.parametrize("ids", ["abc", b"abc", None, 5, {"a": 1}])
    def test_a_plain_string_or_a_mapping_is_no_list(self, ids: object) -> None:
        assert check_ids(ids)[0] == []
        assert told(check_ids(ids)[1]) == {"message_ids": "is not a list of ids"}

    @pytest.mark.parametrize("ids", [[], (), iter([])])
    def test_there_must_be_one(self, ids: object) -> None:
        assert told(check_ids(ids)[1]) == {"message_ids": "is empty"}

    def test_duplicates_are_named_with_the_first_of_them(self) -> None:
        assert told(check_ids(["a", "b", "a", "b", "a"])[1]) == {
            "message_ids[2]": "is the same as message_ids[0]",
            "message_ids[3]": "is the same as message_ids[1]",
            "message_ids[4]": "is the same as message_ids[0]",
        }

    @pytest.mark.parametrize(
        ("wrong", "word"),
        [
            (5, "not a string"),
            (None, "not a string"),
            (["a"], "not a string"),
            (float("nan"), "not a string"),
            ("", "is empty"),
            (".", "not a message id"),
            ("..", "not a message id"),
            ("a\0", "NUL"),
            ("\ud800", "lone surrogate"),
            ("x" * 513, "more than 512"),
        ],
    )
    def test_a_wrong_one_is_named_by_its_index(self, wrong: object, word: str) -> None:
        found, problems = check_ids(["ok", wrong, "x" * 512])
        assert found == []
        assert set(told(problems)) == {"message_ids[1]"}
        assert word in told(problems)["message_ids[1]"]

    def test_more_than_ten_problems_are_counted(self) -> None:
        problems = check_ids([""] * 1234)[1]
        assert [problem.field for problem in problems[:-1]] == [f"message_ids[{index}]" for index in range(10)]
        assert str(problems[-1]).startswith("message_ids: has 1,224 more problems")

    def test_exactly_ten_are_listed_without_a_count(self) -> None:
        assert len(check_ids([""] * 10)[1]) == 10

    def test_a_generator_that_raises_half_way_raises_its_own_error(self) -> None:
        def ids() -> Iterator[str]:
            yield "a"
            raise LookupError("the caller's own")

        with pytest.raises(LookupError, match="the caller's own"):
            check_ids(ids())

    @given(
        st.lists(st.one_of(st.text(max_size=3), st.sampled_from(["", ".", "a", "x" * 513]), st.integers()), max_size=8)
    )
    def test_the_short_way_finds_what_the_long_way_finds(self, ids: list[object]) -> None:
        found, problems = check_ids(ids)
        singly = ids and all(check_ids([value])[1] == [] for value in ids) and len(set(ids)) == len(ids)
        assert (problems == []) is bool(singly)
        assert found == ([] if problems else ids)

    def test_a_hundred_thousand_take_no_time_to_speak_of(self) -> None:
        ids = [f"{number:016x}" for number in range(100_000)]
        begun = time.process_time()
        assert [check_ids([value])[1] for value in ids[:1_000]] == [[]] * 1_000
        one_by_one = (time.process_time() - begun) * 100
        begun = time.process_time()
        assert check_ids(ids) == (ids, [])
        assert time.process_time() - begun < one_by_one / 4
