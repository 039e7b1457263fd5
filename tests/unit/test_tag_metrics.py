"""Jobs that end are counted by the tags that a setting names, and by a bounded number of their values."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from sendq.facts.outcomes import Outcome
from sendq.rules.states import Event
from settings import Settings
from settings.errors import SettingsError
from worker.telemetry import metrics

NOBODY = UUID(int=0)


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    metrics.count_tags(["campaign"])
    yield
    metrics.count_tags([])
    metrics._tagged.clear()


def ended(tags: str | None, event: Event = Event.ACCEPT) -> None:
    metrics.ended(Outcome(NOBODY, NOBODY, 1, NOBODY, "send", event, "accepted", 0, application="a", tags=tags))


def series() -> dict[tuple[str, str, str], float]:
    found = [sample for family in metrics._tagged.collect() for sample in family.samples]
    return {(one.labels["key"], one.labels["value"], one.labels["state"]): one.value for one in found}


class TestTags:
    def test_that_are_named_are_counted_by_state(self) -> None:
        for tags in ("campaign=may tenant=7", "campaign=may", "tenant=7", None):
            ended(tags)
        ended("campaign=june", Event.GIVE_UP)
        ended("campaign=june", Event.RETURN)  # not ended
        assert series() == {("campaign", "may", "sent"): 2, ("campaign", "june", "dead"): 1}

    def test_with_too_many_values_are_counted_as_others(self) -> None:
        for number in range(metrics.VALUES_MOST + 5):
            ended(f"campaign=n{number}")
        ended("campaign=n0")
        assert len(series()) == metrics.VALUES_MOST + 1
        assert series()["campaign", "other", "sent"] == 5
        assert series()["campaign", "n0", "sent"] == 2

    def test_are_named_by_a_setting(self) -> None:
        loaded = Settings.load({"NYLAS_API_KEY": "none", "SENDQ_METRICS_TAGS": "campaign, tenant"})
        assert loaded.metrics_tags == ("campaign", "tenant")
        with pytest.raises(SettingsError, match="SENDQ_METRICS_TAGS"):
            Settings.load({"NYLAS_API_KEY": "none", "SENDQ_METRICS_TAGS": "Campaign"})
