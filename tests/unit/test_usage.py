"""How much of the provider's limits an answer says that its call used."""

from __future__ import annotations

import pytest

from tasks.calling.usage import units_used

BOTH = {"nylas-gmail-quota-usage": "115", "nylas-provider-request-count": " 4 "}


@pytest.mark.parametrize(
    ("provider", "units"),
    [("google", 115), ("microsoft", 4), ("ews", 4), ("imap", None), ("nylas", None), ("unknown", None)],
)
def test_is_stated_in_the_units_of_the_provider(provider: str, units: int | None) -> None:
    assert units_used(BOTH, provider) == units


@pytest.mark.parametrize("stated", ["", "-5", "1e3", "115.0", "9" * 5_000, "\u0661\u0661\u0665", "many", "115, 115"])
def test_is_ignored_if_it_is_no_number(stated: str) -> None:
    assert units_used({"nylas-gmail-quota-usage": stated}, "google") is None


def test_is_mostly_not_stated() -> None:
    assert units_used({}, "google") is None
