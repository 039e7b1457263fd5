"""The overview, the search by any name, lists of batches, and a grant's pace, on both databases."""

from __future__ import annotations

import pytest

from sendq import clock
from sendq.clock import SECOND, moment
from sendq.errors import InvalidArgument
from sendq.ledger.db import schema
from sendq.ledger.reading import gauges
from sendq.operators import Operators
from sendq.rules.states import State
from sendq.views import FoundGrant
from tests.support.ledger import Ledger
from tests.support.populated import populate

HOUR = 3600 * SECOND


@pytest.fixture
def operators(ledger: Ledger) -> Operators:
    ledger.clock.at = clock.now()
    return Operators(ledger.engine, now=ledger.clock)


class TestTheOverview:
    def test_counts_what_waits_and_what_moves(self, ledger: Ledger, operators: Operators) -> None:
        job = ledger.send("g1", provider="google")
        ledger.finish(ledger.serve())
        ledger.send("g2", provider="ews")
        ledger.absorb()
        now = ledger.clock()
        ledger.set_lane("g2", held_until=now + HOUR, held_since=now, held_rule="r", held_by="policy")
        seen = operators.overview()
        assert ledger.state(job) == "sent"
        assert (seen.jobs[State.QUEUED], seen.jobs[State.SENDING], seen.jobs[State.DEAD]) == (1, 0, 0)
        assert (seen.lanes["held"], seen.lanes["idle"]) == (1, 1)
        assert seen.enqueued == 2
        assert seen.calls == {"done": 1}
        assert (seen.shut, seen.broker.unpublished_since, seen.workers) == (None, None, ())
        assert seen.as_json()["jobs"]["queued"] == 1

    def test_counts_what_the_metrics_count(self, ledger: Ledger, operators: Operators) -> None:
        with ledger.writing() as connection:
            populate(connection, grants=60, jobs=600, held=7, now=ledger.clock())
            levels = gauges.levels(connection, now=ledger.clock())
        seen = operators.overview()
        assert {state.value: number for state, number in seen.jobs.items()} == dict(levels.jobs) | {
            "in_doubt": sum(levels.in_doubt.values()), "dead": sum(levels.dead.values()),
        }  # fmt: skip
        assert sum(seen.lanes.values()) == sum(levels.lanes.values()) == 60
        assert (seen.oldest_s, seen.turn_wait_s, seen.deliveries) == (
            levels.oldest_s, levels.turn_wait_s, levels.deliveries,
        )  # fmt: skip
        assert operators.held() == levels.held

    def test_shows_the_holds_of_providers(self, ledger: Ledger, operators: Operators) -> None:
        with ledger.writing() as connection:
            connection.execute(schema.pair.insert().values(
                application="default", provider="ews", held_until=ledger.clock() + HOUR, held_rule="r", held_by="anna"
            ))  # fmt: skip
        assert [(hold.provider, hold.by) for hold in operators.overview().holds] == [("ews", "anna")]


class TestASearch:
    def test_finds_jobs_batches_and_grants_by_any_name(self, ledger: Ledger, operators: Operators) -> None:
        job = ledger.send("grant-7", key="invoice 42")
        other = ledger.send("grant-7", application="eu", key="invoice 42")
        batch = ledger.queue.modify("grant-7", ["m1"], unread=False, key="bulk").id
        ledger.absorb()
        ledger.set_job(job, message_id="<m@provider>")
        assert operators.search(str(job)).jobs == (str(job),)
        assert operators.search(f" {str(job).upper()} ").jobs == (str(job),)
        assert set(operators.search("invoice 42").jobs) == {str(job), str(other)}
        assert operators.search("<m@provider>").jobs == (str(job),)
        assert operators.search("bulk").batches == operators.search(batch).batches == (batch,)
        assert operators.search("grant-7").grants == (FoundGrant("default", "grant-7"), FoundGrant("eu", "grant-7"))
        assert operators.search("invoice 42").number == 2

    def test_of_anything_else_finds_nothing(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("grant-7", key="invoice 42")
        ledger.absorb()
        for text in ("", "  ", "invoice", "%", "grant", "' OR 1=1 --", "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"):
            assert operators.search(text).number == 0, text
        with pytest.raises(InvalidArgument, match="text"):
            operators.search("a\x00b")


class TestAListOfBatches:
    def test_has_their_progress_the_latest_first(self, ledger: Ledger, operators: Operators) -> None:
        first = ledger.queue.modify("g1", ["m1", "m2"], unread=False, provider="google").id
        second = ledger.queue.modify("g2", ["m1"], unread=False, provider="ews").id
        ledger.absorb()
        ledger.queue.cancel_batch(first)
        page = operators.batches()
        assert [(one.id, one.total, one.ended) for one in page.items] == [(second, 1, 0), (first, 2, 2)]
        assert page.items[1].cancelled_at == moment(ledger.clock())
        assert [one.id for one in operators.batches(grant_id="g2").items] == [second]
        assert [one.id for one in operators.batches(provider="google").items] == [first]
        assert operators.batches(finished=True).items == ()
        assert len(operators.batches(finished=False).items) == 2
        before = operators.batches(limit=1)
        assert [one.id for one in operators.batches(limit=1, cursor=before.next).items] == [first]


class TestTheGrantsByText:
    def test_are_those_whose_ids_contain_it(self, ledger: Ledger, operators: Operators) -> None:
        for grant in ("abc-1", "abc_2", "xyz"):
            ledger.send(grant)
        ledger.absorb()
        ledger.set_lane("abc_2", held_until=ledger.clock() + HOUR, held_since=1, held_rule="r", held_by="policy")
        assert {one.grant_id for one in operators.grants(text="abc").items} == {"abc-1", "abc_2"}
        assert [one.grant_id for one in operators.grants(text="c_").items] == ["abc_2"]
        assert operators.grants(text="%").items == ()


class TestThePaceOfAGrant:
    def test_says_what_slows_it_down(self, ledger: Ledger, operators: Operators) -> None:
        assert operators.pace("g1") is None
        for _ in range(3):
            ledger.send("g1", provider="google")
        ledger.absorb()
        now = ledger.clock()
        ledger.set_lane(
            "g1", held_until=now + HOUR, held_since=now, held_rule="r", held_by="policy", stretch=2 * SECOND
        )
        pace = operators.pace("g1")
        assert pace is not None
        assert (pace.at_once, pace.apart_s, pace.modify_apart_s, pace.next_at) == (1, 2.0, 0.0, None)
        assert pace.limits


class TestTheEtaOfAGrant:
    def test_is_when_the_last_of_its_waiting_jobs_starts(self, ledger: Ledger, operators: Operators) -> None:
        for _ in range(3):
            ledger.send("g1", provider="google")
        ledger.absorb()
        now = ledger.clock()
        assert moment(now) <= (operators.grant("g1").eta or moment(0)) < moment(now + HOUR)
        ledger.set_lane("g1", held_until=now + HOUR, held_since=now, held_rule="r", held_by="policy")
        held = operators.grant("g1").eta
        assert held is not None
        assert held >= moment(now + HOUR)
        assert [one.eta for one in operators.grants().items] == [held]
        ledger.set_lane("g1", stretch=60 * SECOND)
        assert (operators.grant("g1").eta or held) >= moment(now + HOUR + 100 * SECOND)
        with ledger.writing() as connection:
            connection.execute(schema.pair.update().values(held_until=now + 2 * HOUR))
        assert (operators.grant("g1").eta or held) >= moment(now + 2 * HOUR)
        ledger.set_lane("g1", closed_at=now, closed_rule="r")
        assert operators.grant("g1").eta is None


class TestARefusal:
    def test_is_an_event(self, ledger: Ledger, operators: Operators) -> None:
        operators.record_refusal("release", by="vera", reason="a viewer may not act")
        (event,) = operators.events(kind="refused").items
        assert (event.by, event.reason, event.grant_id) == ("vera", "release: a viewer may not act", None)
        with pytest.raises(InvalidArgument, match="by"):
            operators.record_refusal("release", by="policy", reason="r")
