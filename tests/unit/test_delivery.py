"""What became of a mail: reports that come late, twice and in any order have one result."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND
from sendq.rules.delivery import WENT_OUT, Delivery, Report, Send, concerns, event_for, is_pending, merge
from sendq.rules.states import MOVES, Event, State

REPORTS = st.builds(
    Report,
    st.sampled_from([one for one in Delivery if one is not Delivery.UNKNOWN]),
    st.integers(0, 5),
    st.sampled_from(["message.bounced", "message.delivered", "activity"]),
    st.none() | st.sampled_from(["550 no such user", "mailbox full"]),
)


class TestMerging:
    @given(st.lists(REPORTS, min_size=1, max_size=8), st.randoms(use_true_random=False))
    def test_gives_the_same_whatever_the_order_and_however_often_each_comes(
        self, reports: list[Report], chance: random.Random
    ) -> None:
        again = reports + chance.choices(reports, k=3)
        chance.shuffle(again)
        assert merge(again) == merge(reports)

    @given(REPORTS, REPORTS, REPORTS)
    def test_gives_the_same_one_by_one_and_all_at_once(self, one: Report, two: Report, three: Report) -> None:
        assert merge([merge([one, two]), three]) == merge([one, merge([two, three])]) == merge([one, two, three])

    @given(st.lists(REPORTS, min_size=1, max_size=8))
    def test_invents_nothing(self, reports: list[Report]) -> None:
        assert merge(reports) in reports

    @pytest.mark.parametrize(
        ("reported", "stands"),
        [
            (["delivered", "bounced"], "bounced"),
            (["delivered", "complained"], "complained"),
            (["confirmed", "delivered"], "delivered"),
            (["failed_later", "confirmed"], "confirmed"),
            (["failed_later", "delivered"], "delivered"),
            (["rejected", "delivered"], "delivered"),
            (["failed_later", "rejected"], "rejected"),
        ],
    )
    def test_lets_the_worst_news_stand_and_what_went_out_above_what_did_not(
        self, reported: list[str], stands: str
    ) -> None:
        for order in permutations(Report(Delivery(one), at, "x") for at, one in enumerate(reported)):
            assert merge(order).delivery == stands

    def test_keeps_the_earliest_of_equal_news(self) -> None:
        assert merge([Report(Delivery.BOUNCED, 2, "a"), Report(Delivery.BOUNCED, 1, "b")]).at == 1

    def test_needs_a_report(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            merge([])


class TestWhichSendAReportIsAbout:
    """The job was sent as m1, which failed later; an operator retried it, and it was sent as m2 at 100 s."""

    BEFORE = Send(0, "m1")
    NOW = Send(1, "m2", key_at=100 * SECOND)

    @pytest.mark.parametrize(
        ("message_id", "at", "current"),
        [
            ("m1", 200, False),
            ("m2", 50, True),
            ("m3", 200, True),
            ("m3", 50, False),
            (None, 99, True),  # whole seconds
            (None, 98, False),
        ],
    )
    def test_is_told_by_the_messages_id_else_by_the_time(self, message_id: str | None, at: int, current: bool) -> None:
        report = Report(Delivery.FAILED_LATER, at * SECOND, "message.send_failed")
        assert concerns(report, message_id, self.NOW, self.BEFORE) is current

    def test_is_none_while_the_retry_waits(self) -> None:
        report = Report(Delivery.FAILED_LATER, 200 * SECOND, "message.send_failed")
        assert not concerns(report, None, Send(1, "m1"), self.BEFORE)

    @pytest.mark.parametrize("before", [None, Send(1, "m1")])
    def test_is_the_only_one_if_it_was_not_retried_since(self, before: Send | None) -> None:
        assert concerns(Report(Delivery.BOUNCED, 0, "x"), "m9", self.NOW, before)


class TestTheJob:
    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("delivery", list(Delivery))
    @pytest.mark.parametrize("by_report", [False, True])
    @pytest.mark.parametrize("in_doubt", [False, True])
    def test_moves_only_as_the_table_of_states_allows(
        self, state: State, delivery: Delivery, by_report: bool, in_doubt: bool
    ) -> None:
        event = event_for(state, delivery, by_report=by_report, in_doubt=in_doubt)
        assert event is None or event in MOVES[state]

    @pytest.mark.parametrize("delivery", sorted(set(Delivery) - {Delivery.FAILED_LATER}))
    def test_stays_sent_whatever_is_reported_but_that_it_never_went_out(self, delivery: Delivery) -> None:
        assert event_for(State.SENT, delivery, by_report=False, in_doubt=False) is None

    def test_that_was_sent_is_dead_if_it_never_went_out(self) -> None:
        assert event_for(State.SENT, Delivery.FAILED_LATER, by_report=False, in_doubt=False) is Event.FAIL_LATER

    @pytest.mark.parametrize("delivery", sorted(WENT_OUT))
    @pytest.mark.parametrize("state", [State.QUEUED, State.IN_DOUBT, State.CANCELLED, State.EXPIRED])
    def test_that_went_out_is_not_sent_again(self, state: State, delivery: Delivery) -> None:
        assert event_for(state, delivery, by_report=False, in_doubt=False) is Event.ACCEPT

    @pytest.mark.parametrize(("by_report", "in_doubt", "event"), [
        (True, False, Event.ACCEPT), (False, True, Event.ACCEPT), (False, False, None),
    ])  # fmt: skip
    def test_that_is_dead_is_sent_after_all_if_a_report_or_a_doubt_made_it_dead(
        self, by_report: bool, in_doubt: bool, event: Event | None
    ) -> None:
        assert event_for(State.DEAD, Delivery.DELIVERED, by_report=by_report, in_doubt=in_doubt) is event

    def test_on_the_wire_waits_for_its_own_outcome(self) -> None:
        for delivery in Delivery:
            assert event_for(State.SENDING, delivery, by_report=False, in_doubt=False) is None
        assert is_pending(State.SENDING, Delivery.FAILED_LATER)
        assert not is_pending(State.SENDING, Delivery.DELIVERED)
        assert not is_pending(State.SENT, Delivery.FAILED_LATER)
