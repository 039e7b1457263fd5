"""Tags of jobs: which are accepted, and how they are stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq import InvalidJob, Message
from sendq.enqueueing.options import Options, Send
from sendq.enqueueing.planning import plan_sends
from sendq.rules.tags import MOST_TAGS, check_tag, check_tags, each_tag, read_tags, stored_tags

KEYS = st.from_regex(r"[a-z0-9_.-]{1,32}", fullmatch=True)
VALUES = st.from_regex(r"[A-Za-z0-9_.:/+-]{1,64}", fullmatch=True)


def reasons(tags: Any) -> list[str]:
    return [f"{problem.field}: {problem.reason}" for problem in check_tags(tags)]


class TestTags:
    @given(st.dictionaries(KEYS, VALUES, max_size=MOST_TAGS))
    def test_are_read_back_as_they_were_passed(self, tags: dict[str, str]) -> None:
        assert read_tags(stored_tags(tags)) == tags
        if not check_tags(tags):
            assert all(not check_tag(tag) for tag in each_tag(stored_tags(tags)))

    @pytest.mark.parametrize(
        "tags",
        [{}, {"campaign": "may"}, {"a.b-c_d": "2026-07-01T09:00:00+02:00"}, {"run": "at"},
         {"look-at": "nothing-at-all"}, {"path": "mails/at.work/v1.2.html"}, {"version": "meet-at-noon"},
         {"k": "x" * 64}],
    )  # fmt: skip
    def test_of_an_application_are_accepted(self, tags: dict[str, str]) -> None:
        assert check_tags(tags) == []

    @pytest.mark.parametrize(
        "value",
        ["ann@example.com", "ann\uff20example.com", "ann%40example.com", "ann(at)example.com", "ann [at] example.com",
         "ann-at-example.com", "ann.at.mail.example.co.uk", "ANN_AT_EXAMPLE.COM", "x@", "mailto:ann@example.com"],
    )  # fmt: skip
    def test_with_an_address_are_refused_and_not_shown(self, value: str) -> None:
        assert reasons({"campaign": value}) == ["tags.campaign: looks like an email address"]
        assert reasons({value: "may"}) == ["tags: has a key (number 1) that looks like an email address"]
        assert [problem.reason for problem in check_tag(f"campaign={value}")] == [
            "has a value that looks like an email address"
        ]
        with pytest.raises(InvalidJob) as refused:
            plan(tags={"campaign": value})
        assert value not in str(refused.value)

    @pytest.mark.parametrize(
        ("tags", "reason"),
        [
            ("campaign=may", "tags: is not a dict"),
            ([("campaign", "may")], "tags: is not a dict"),
            ({"campaign": 5}, "tags.campaign: is not a string"),
            ({"campaign": None}, "tags.campaign: is not a string"),
            ({"campaign": ""}, "tags.campaign: is empty"),
            ({"campaign": "x" * 65}, "tags.campaign: has more than 64 characters"),
            ({"campaign": "may 2026"}, "tags.campaign: has a space or another character that tags cannot have"),
            ({"campaign": "a=b"}, "tags.campaign: has a space or another character that tags cannot have"),
            ({"campaign": "may\n"}, "tags.campaign: has a space or another character that tags cannot have"),
            ({5: "may"}, "tags: has a key (number 1) that is not a string"),
            ({"": "may"}, "tags: has a key (number 1) that is empty"),
            ({"Campaign": "may"}, "tags: has a key (number 1) that is too long or has other characters"),
            ({"k" * 33: "may"}, "tags: has a key (number 1) that is too long or has other characters"),
            ({f"k{number}": "v" for number in range(9)}, "tags: has more than 8 tags"),
        ],
    )
    def test_that_are_none_are_refused(self, tags: Any, reason: str) -> None:
        assert reasons(tags) == [reason]

    @pytest.mark.parametrize("tag", ["", "campaign", "=may", "campaign=", "campaign==may", "Campaign=may", 5])
    def test_in_a_filter_have_the_same_form(self, tag: Any) -> None:
        assert len(check_tag(tag)) == 1

    def test_are_a_column_only_of_calls_that_have_some(self) -> None:
        assert all("tags" not in row for row in plan())
        mixed = plan_sends(
            [send(), send(tags={"b": "2", "a": "1"})], indexed=True, now=1_000, metadata_key="key1"
        ).plan.jobs
        assert [row["tags"] for row in mixed] == [None, "a=1 b=2"]


def send(**options: Any) -> Send:
    return Send("g1", Message(to=["leyah@example.com"], subject="x", body="x"), Options(**options))


def plan(**options: Any) -> list[Any]:
    return list(plan_sends([send(**options)], indexed=False, now=1_000, metadata_key="key1").plan.jobs)
