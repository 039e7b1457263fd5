"""The recorded runs under docs/stories: they can be run again, and the pages show what they show."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from examples.stories.__main__ import NAMES
from examples.stories.page import with_own_ids, with_own_times
from examples.stories.play import played
from tests.support.system import ROOT


def page(name: str) -> str:
    """The page as it is kept."""
    return (ROOT / "docs" / "stories" / f"{name}.md").read_text(encoding="utf-8")


def without_times(text: str) -> str:
    """What should be the same in every run: all but times of day and spaces of time (and how wide they are)."""
    return re.sub(r"\d\d:\d\d:\d\dZ|\d+\.\d\d?\b| +", " ", text)


class TestAStory:
    @pytest.mark.long
    def test_that_is_run_again_gives_the_page_that_is_kept(self) -> None:
        again = played(import_module("examples.stories.dead_letter"))
        assert without_times(again) == without_times(page("dead_letter"))

    @pytest.mark.parametrize("name", NAMES)
    def test_has_a_page_that_names_its_title_and_its_commands(self, name: str) -> None:
        story = import_module(f"examples.stories.{name}")
        commands = re.findall(r"^\$ sendq (\S+)", page(name), re.MULTILINE)
        assert page(name).startswith(f"# {story.TITLE}\n")
        assert commands

    @pytest.mark.parametrize("columns", [80, 120])
    def test_of_two_widths_fits_each_and_loses_no_state_and_no_id(self, columns: int) -> None:
        section = page("two_widths").split(f"On {columns} columns:")[1].split("\nOn ")[0]
        printed = dict(re.findall(r"^\$ sendq (\w+)[^\n]*\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
        assert set(printed) == {"status", "grants", "jobs", "dead"}
        for command, text in printed.items():
            rows = text.split("\nmailbox_not_enabled: ")[0]  # what a rule says is prose, which the terminal folds
            assert max(map(len, rows.splitlines())) <= columns, command
            assert "…" not in rows
        assert all(state in printed["jobs"] for state in ("queued", "dead"))
        assert all(state in printed["grants"] for state in ("held", "closed"))

    def test_on_paper_has_ids_and_times_of_its_own(self) -> None:
        one, two = "01a2067b-b120-789f-af58-eceeb4b2ed54", "01a2067b-b120-789f-af58-eceeb4b2ed55"
        first, second = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
        assert with_own_ids(f"{two} {one} {two}") == f"{first} {second} {first}"
        said = "2026-11-23 03:30:07Z, 2026-11-23T03:30:02.5+00:00, 2026-11-26 03:30:02 UTC"
        assert with_own_times(said) == "2026-01-05 09:00:05Z, 2026-01-05 09:00:00Z, 2026-01-08 09:00:00 UTC"

    @pytest.mark.parametrize("name", NAMES)
    def test_has_no_time_of_the_day_that_it_was_recorded(self, name: str) -> None:
        days = set(re.findall(r"\d{4}-\d\d-\d\d", page(name)))
        assert all("2026-01-05" <= day < "2026-02-05" for day in days), days
