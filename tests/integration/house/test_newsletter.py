"""The newsletter under examples/, as a person uses it: sent, watched to its end, or cancelled."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sendq import State, clock
from sendq.ledger import batches
from tests.support.ledger import Ledger

ISSUE = {"issue": "may", "subject": "For {{first_name}}", "body": "<p>News</p>",
         "readers": "ann@example.com,Ann\nbob@example.com,Bob\n"}  # fmt: skip


@pytest.fixture
def site(ledger_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NEWSLETTER_LEDGER", ledger_url)
    monkeypatch.setenv("NEWSLETTER_GRANT", "g1")
    app = importlib.import_module("examples.newsletter.app")
    yield app.app.test_client()
    app.queue.close()
    del sys.modules["examples.newsletter.app"]


class TestTheNewsletter:
    def test_is_sent_once_and_watched_to_its_end(self, ledger: Ledger, site: Any) -> None:
        first, again = site.post("/", data=ISSUE), site.post("/", data=ISSUE)
        assert (first.status_code, first.location) == (303, again.location)
        assert "2 of 2 wait" in site.get(first.location).text
        ledger.clock.at = clock.now() + clock.SECOND  # the site's own clock is the real one
        claimed = ledger.serve()
        ledger.finish(claimed)
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=100)
        page = site.get(first.location).text
        assert '<p id="sent">2 sent</p>' in page
        assert 'id="end">Ended' in page

    def test_is_cancelled(self, ledger: Ledger, site: Any) -> None:
        address = site.post("/", data=ISSUE).location
        assert site.post(f"{address}/cancel").status_code == 303
        assert ledger.queue.count("g1").states == {State.CANCELLED: 2}

    def test_names_the_reader_that_is_wrong(self, site: Any) -> None:
        wrong = site.post("/", data=ISSUE | {"readers": "ann@example.com,Ann\nnobody,Bob"})
        assert wrong.status_code == 422
        assert "[1].to[0].email is not an email address" in wrong.text
        assert site.post("/", data=ISSUE).status_code == 303
        assert site.post("/", data=ISSUE | {"body": "<p>Other</p>"}).status_code == 409
