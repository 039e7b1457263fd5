"""What a message was before a change, and whether the change may be undone."""

from __future__ import annotations

from typing import Any

import pytest

from sendq.rules.changed_fields import EVERY_FIELD, bits_of
from sendq.rules.message_state import Verdict, alike, before_next, read, state_of, verdict, written

WAS = {"unread": True, "starred": False, "folders": ["INBOX", "UNREAD"], "metadata": {"key1": "job", "crm": "7"}}
LEFT = {"unread": False, "starred": False, "folders": ["done"], "metadata": {"crm": "8"}}


class TestStateOf:
    def test_has_the_fields_that_are_changed(self) -> None:
        assert state_of({**WAS, "subject": "x"}, bits_of(["unread", "folders"])) == {
            "unread": True, "folders": ["INBOX", "UNREAD"],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("document", "state"),
        [
            ({}, {"metadata": {}}),
            ({"metadata": None, "unread": None}, {"metadata": {}}),
            ({"unread": "yes", "starred": 1, "folders": "INBOX", "metadata": []}, {}),
            ({"folders": [1], "metadata": {"a": 1}}, {}),
        ],
    )
    def test_leaves_out_what_an_answer_does_not_show(self, document: dict[str, Any], state: dict[str, Any]) -> None:
        assert state_of(document, EVERY_FIELD) == state

    def test_is_read_as_it_was_written(self) -> None:
        assert read(written(WAS)) == WAS


class TestVerdict:
    @pytest.mark.parametrize(
        ("now", "found"),
        [
            (LEFT, Verdict.RESTORE),
            (LEFT | {"metadata": {"key1": "job", "crm": "8"}}, Verdict.RESTORE),  # the pair that sendq keeps
            (WAS, Verdict.RESTORED),
            (WAS | {"folders": ["UNREAD", "INBOX"]}, Verdict.RESTORED),  # folders have no order
            (LEFT | {"unread": True}, Verdict.CHANGED),
            (LEFT | {"folders": ["done", "more"]}, Verdict.CHANGED),
            (LEFT | {"metadata": {"crm": "9"}}, Verdict.CHANGED),
            (WAS | {"starred": True}, Verdict.CHANGED),
            ({name: value for name, value in LEFT.items() if name != "folders"}, Verdict.CHANGED),
        ],
    )
    def test_restores_only_what_is_as_the_change_left_it(self, now: dict[str, Any], found: Verdict) -> None:
        assert verdict(now, before=WAS, left=LEFT, mark="key1") is found

    def test_is_unknown_if_it_is_not_known_what_was_there(self) -> None:
        assert verdict(LEFT, before={}, left=LEFT, mark="key1") is Verdict.UNKNOWN

    def test_of_a_field_that_nobody_has_changed_looks_at_no_other(self) -> None:
        assert verdict({"unread": False, "starred": True}, before={"unread": True}, left={"unread": False},
                       mark="key1") is Verdict.RESTORE  # fmt: skip

    @pytest.mark.parametrize("name", list(WAS))
    def test_is_unknown_if_it_is_not_known_of_each_field_what_was_there(self, name: str) -> None:
        before = {field: value for field, value in WAS.items() if field != name}
        assert verdict(LEFT, before=before, left=LEFT, mark="key1") is Verdict.UNKNOWN


class TestBeforeNext:
    def test_is_what_is_there_while_no_request_was_made(self) -> None:
        assert before_next(LEFT, kept=WAS, asked=LEFT, mark="key1", repeated=False) == LEFT

    @pytest.mark.parametrize(
        ("now", "before"),
        [
            (LEFT, WAS),  # the change was made
            (WAS, WAS),  # it was not
            (LEFT | {"folders": ["IMPORTANT", "done"]}, WAS),  # made, and the provider added a folder
            (LEFT | {"metadata": {"crm": "8", "key1": "job"}}, WAS),  # the pair that sendq keeps
            (LEFT | {"unread": True}, WAS | {"unread": True}),
            (LEFT | {"folders": ["mine"]}, WAS | {"folders": ["mine"]}),  # made, and then moved by somebody else
            (WAS | {"metadata": {"crm": "9"}}, WAS | {"metadata": {"crm": "9"}}),
        ],
    )
    def test_of_a_repeat_is_what_was_there_or_what_others_have_set(
        self, now: dict[str, Any], before: dict[str, Any]
    ) -> None:
        assert before_next(now, kept=WAS, asked=LEFT, mark="key1", repeated=True) == before

    def test_is_only_what_the_message_shows(self) -> None:
        assert before_next({"unread": True}, kept=WAS, asked=LEFT, mark="key1", repeated=True) == {"unread": True}


def test_states_are_alike_whatever_the_order_of_folders() -> None:
    assert alike(WAS, WAS | {"folders": ["UNREAD", "INBOX"]})
    assert not alike(WAS, WAS | {"unread": False})
    assert not alike(WAS, {"unread": True})
