"""Which pace a lane keeps, and what the settings may say of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sendq.clock import SECOND
from sendq.rules.pace import PACES, read
from sendq.rules.paces import PaceRule, Paces, Window
from settings import Settings, SettingsError


def paces(*rules: PaceRule) -> Paces:
    return Paces(rules)


class TestALane:
    def test_keeps_its_providers_pace_when_nothing_was_said(self) -> None:
        assert Paces().of("default", "google", "g1") == PACES["google"]
        assert Paces().own("default", "google", "g1") is None

    def test_keeps_what_was_said_of_it(self) -> None:
        said = paces(PaceRule(provider="google", width=7, limits={"minute": Window(15_000)}, daily=500))
        pace = said.of("default", "google", "g1")
        assert (pace.width, pace.daily) == (7, 500)
        assert {limit.name: limit.units for limit in pace.limits}["minute"] == 15_000
        assert read(said.own("default", "google", "g1"), "google") == pace

    def test_keeps_its_providers_if_others_were_meant(self) -> None:
        said = paces(PaceRule(provider="google", width=7), PaceRule(application="eu", width=8))
        assert said.own("default", "ews", "g1") is None

    def test_lets_the_most_specific_have_the_last_word(self) -> None:
        said = paces(
            PaceRule(grant="g1", width=1),
            PaceRule(application="eu", provider="google", width=2, daily=20),
            PaceRule(provider="google", width=3),
            PaceRule(application="eu", width=5, daily=50),
        )
        widths = {
            (application, grant): said.of(application, "google", grant).width
            for application in ("eu", "us")
            for grant in ("g1", "g2")
        }
        assert widths == {("eu", "g1"): 1, ("eu", "g2"): 2, ("us", "g1"): 1, ("us", "g2"): 3}
        assert said.of("eu", "google", "g1").daily == 20

    def test_may_have_a_limit_taken_away_or_over_another_window(self) -> None:
        said = paces(PaceRule(provider="ews", limits={"nylas": None, "commands": Window(40, 2.5)}))
        limits = {limit.name: limit for limit in said.of("default", "ews", "g1").limits}
        assert "nylas" not in limits
        assert (limits["commands"].units, limits["commands"].window) == (40, round(2.5 * SECOND))


FAQ = Path(__file__).parents[2] / "docs/faq.md"


def load(value: Any) -> Settings:
    return Settings.load({"SENDQ_PACES": value if isinstance(value, str) else json.dumps(value)})


class TestTheSetting:
    def test_is_read_as_rules(self) -> None:
        settings = load(
            [{"provider": "google", "limits": {"minute": 15_000, "second": None}}, {"grant": "g", "width": 1}]
        )
        pace = settings.lane_paces.of("default", "google", "g")
        assert pace.width == 1
        assert [limit.name for limit in pace.limits] == ["nylas", "nylas_multipart", "minute"]

    def test_states_the_daily_limit_of_agent_accounts_as_the_faq_shows_it(self) -> None:
        (shown,) = re.findall(r"SENDQ_PACES='(.*)'", FAQ.read_text(encoding="utf-8"))
        pace = load(shown).lane_paces.of("default", "nylas", "g")
        assert (pace.daily, pace.learns, pace.limits) == (200, True, PACES["nylas"].limits)

    def test_may_be_left_away(self) -> None:
        assert Settings.load({}).lane_paces.rules == ()

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ("[", "is not JSON"),
            ({"provider": "google"}, "is not a JSON list"),
            ([{"width": 3}], "has no target"),
            ([{"provider": "gmail", "width": 3}], "provider"),
            ([{"provider": "google", "limits": {"hour": 5}}], "names an unknown limit"),
            ([{"provider": "google", "limits": {"minute": 100}}], "too few units"),
            ([{"provider": "google", "width": 0}], "width"),
            ([{"provider": "google", "daily": 0}], "daily"),
            ([{"provider": "google", "speed": 3}], "speed"),
        ],
    )
    def test_is_refused_with_its_place_if_it_says_nonsense(self, value: Any, says: str) -> None:
        with pytest.raises(SettingsError) as refused:
            load(value)
        assert says in str(refused.value)
        assert "SENDQ_PACES" in str(refused.value)
