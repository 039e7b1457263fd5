"""What became of a mail: reports that come late, twice and in any order have one result."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND
from sendq.rules.delivery import (
    NEVER_WENT_OUT,
    WENT_OUT,
    Delivery,
    Known,
    MailJob,
    Report,
    concerns,
    event_for,
    is_pending,
    merge,
    take_in,
)
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


NOW_S = 100


def report_of(delivery: Delivery, at: int = 200) -> Report:
    return Report(delivery, at * SECOND, "x")


def known_of(delivery: Delivery, generation: int = 0, message_id: str | None = "m1", *, pending: bool = False) -> Known:
    return Known(report_of(delivery, 1), generation, message_id, pending)


def job_of(state: State = State.SENT, generation: int = 1, **given: Any) -> MailJob:
    """Its first send failed; the second was requested at 100 s, and accepted as m2 if its state says so."""
    values: dict[str, Any] = {"key_at": NOW_S * SECOND, "message_id": "m2" if state is State.SENT else "m1"}
    return MailJob(state, generation, **(values | given))


FIRST_FAILED = known_of(Delivery.FAILED_LATER)


class TestWhichSendAReportIsAbout:
    @pytest.mark.parametrize("known", [None, FIRST_FAILED])
    @pytest.mark.parametrize(
        ("delivery", "message_id", "at", "current"),
        [
            (Delivery.FAILED_LATER, "m2", 50, True),
            (Delivery.FAILED_LATER, "m3", 200, False),  # m2 was accepted, and another one failed
            (Delivery.FAILED_LATER, None, 99, True),  # whole seconds
            (Delivery.FAILED_LATER, None, 98, False),
            (Delivery.BOUNCED, "m3", 200, True),
            (Delivery.BOUNCED, "m3", 50, False),
            (Delivery.BOUNCED, None, 99, True),
            (Delivery.BOUNCED, None, 98, False),
        ],
    )
    def test_is_decided_by_the_messages_id_else_by_the_time(
        self, known: Known | None, delivery: Delivery, message_id: str | None, at: int, current: bool
    ) -> None:
        assert concerns(job_of(), known, report_of(delivery, at), message_id) is current

    @pytest.mark.parametrize("delivery", [Delivery.FAILED_LATER, Delivery.BOUNCED])
    def test_is_the_earlier_one_if_its_id_was_reported_for_that(self, delivery: Delivery) -> None:
        assert not concerns(job_of(), FIRST_FAILED, report_of(delivery), "m1")
        assert not concerns(job_of(State.SENDING), FIRST_FAILED, report_of(delivery), "m1")

    @pytest.mark.parametrize("known", [None, FIRST_FAILED])
    def test_is_the_earlier_one_while_the_present_one_waits(self, known: Known | None) -> None:
        waits = job_of(State.QUEUED, key_at=None)
        assert not concerns(waits, known, report_of(Delivery.FAILED_LATER), None)
        assert not concerns(waits, known, report_of(Delivery.FAILED_LATER), "m1")

    def test_is_the_present_one_if_its_id_was_reported_for_that(self) -> None:
        known = known_of(Delivery.CONFIRMED, 1, "m3")
        assert concerns(job_of(), known, report_of(Delivery.BOUNCED, 0), "m3")

    @pytest.mark.parametrize("message_id", ["m1", "m9", None])
    def test_is_the_only_one_if_there_is_no_other(self, message_id: str | None) -> None:
        only = job_of(generation=0, message_id="m1")
        assert concerns(only, None, report_of(Delivery.FAILED_LATER, 0), message_id)
        assert concerns(only, known_of(Delivery.DELIVERED), report_of(Delivery.BOUNCED, 0), message_id)


class TestTakingIn:
    """Every state, generation, earlier status and report: no mail is given up or saved for another one's sake."""

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("known", [None, FIRST_FAILED, known_of(Delivery.REJECTED)])
    @pytest.mark.parametrize("delivery", sorted(NEVER_WENT_OUT))
    @pytest.mark.parametrize(("message_id", "at"), [(None, 50), ("m1", 50), ("m0", 50)])
    def test_the_failure_of_an_earlier_send_changes_nothing(
        self, state: State, known: Known | None, delivery: Delivery, message_id: str | None, at: int
    ) -> None:
        assert take_in(job_of(state), known, report_of(delivery, at), message_id) is None

    def test_a_failure_that_turns_out_to_be_of_an_earlier_send_changes_nothing(self) -> None:
        begun = job_of(State.SENDING)
        known = take_in(begun, None, report_of(Delivery.FAILED_LATER), "m0")
        assert known is not None
        assert known.pending
        assert event_for(job_of(State.SENT), known) is None
        # One that names the message still counts.
        again = take_in(job_of(State.SENT), known, report_of(Delivery.FAILED_LATER), "m2")
        assert again is not None
        assert event_for(job_of(State.SENT), again) is Event.FAIL_LATER

    @pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.IN_DOUBT])
    @pytest.mark.parametrize("known", [None, FIRST_FAILED])
    @pytest.mark.parametrize("delivery", sorted(WENT_OUT))
    @pytest.mark.parametrize(("message_id", "at"), [(None, 50), ("m1", 50), ("m2", 200)])
    @pytest.mark.parametrize("key_at", [None, NOW_S * SECOND])
    def test_evidence_of_any_send_keeps_a_job_from_being_sent_again(
        self, state: State, known: Known | None, delivery: Delivery, message_id: str | None, at: int, key_at: int | None
    ) -> None:
        job = job_of(state, key_at=key_at)
        after = take_in(job, known, report_of(delivery, at), message_id)
        assert after is not None
        if state is State.SENDING:
            assert after.pending
            for later in (State.QUEUED, State.IN_DOUBT, State.CANCELLED, State.EXPIRED):
                for generation in (1, 2):
                    assert event_for(job_of(later, generation, key_at=None), after) is Event.ACCEPT
        else:
            assert event_for(job, after) is Event.ACCEPT

    def test_evidence_is_not_lost_to_a_later_failure(self) -> None:
        evidence = known_of(Delivery.DELIVERED, pending=True)
        after = take_in(job_of(State.IN_DOUBT), evidence, report_of(Delivery.FAILED_LATER), None)
        assert after is not None
        assert event_for(job_of(State.IN_DOUBT), after) is Event.ACCEPT

    def test_evidence_known_before_a_job_was_sent_again_on_purpose_does_not_stop_it(self) -> None:
        known = known_of(Delivery.BOUNCED)
        waits = job_of(State.QUEUED, key_at=None)
        assert event_for(waits, known) is None
        assert take_in(waits, known, report_of(Delivery.DELIVERED, 50), "m1") is None

    @given(
        st.sampled_from(list(State)),
        st.integers(0, 2),
        st.lists(st.tuples(REPORTS, st.none() | st.sampled_from(["m1", "m2"])), min_size=1, max_size=5),
    )
    def test_the_first_send_is_never_given_up_against_evidence(
        self, state: State, generation: int, reports: list[tuple[Report, str | None]]
    ) -> None:
        job, known = job_of(state, generation), None
        for report, message_id in reports:
            known = take_in(job, known, report, message_id) or known
            if known is not None and known.went_out:
                assert event_for(job, known) in (None, Event.ACCEPT)
            if known is not None:
                assert known.generation == generation


def event_of(state: State, delivery: Delivery, **given: Any) -> Event | None:
    return event_for(job_of(state, **given), known_of(delivery, 1, None))


class TestTheJob:
    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("delivery", list(Delivery))
    @pytest.mark.parametrize("failed_later", [False, True])
    @pytest.mark.parametrize("in_doubt", [False, True])
    def test_moves_only_as_the_table_of_states_allows(
        self, state: State, delivery: Delivery, failed_later: bool, in_doubt: bool
    ) -> None:
        event = event_of(state, delivery, failed_later=failed_later, in_doubt=in_doubt)
        assert event is None or event in MOVES[state]

    @pytest.mark.parametrize("delivery", sorted(set(Delivery) - NEVER_WENT_OUT))
    def test_stays_sent_whatever_is_reported_but_that_it_never_went_out(self, delivery: Delivery) -> None:
        assert event_of(State.SENT, delivery) is None

    @pytest.mark.parametrize("delivery", sorted(NEVER_WENT_OUT))
    def test_that_was_sent_is_dead_if_it_never_went_out(self, delivery: Delivery) -> None:
        assert event_of(State.SENT, delivery) is Event.FAIL_LATER
        assert event_of(State.IN_DOUBT, delivery) is Event.GIVE_UP

    @pytest.mark.parametrize("delivery", sorted(WENT_OUT))
    @pytest.mark.parametrize("state", [State.QUEUED, State.IN_DOUBT, State.CANCELLED, State.EXPIRED])
    def test_that_went_out_is_not_sent_again(self, state: State, delivery: Delivery) -> None:
        assert event_of(state, delivery) is Event.ACCEPT

    @pytest.mark.parametrize(("failed_later", "in_doubt", "event"), [
        (True, False, Event.ACCEPT), (False, True, Event.ACCEPT), (False, False, None),
    ])  # fmt: skip
    def test_that_is_dead_is_sent_after_all_if_a_report_or_a_doubt_made_it_dead(
        self, failed_later: bool, in_doubt: bool, event: Event | None
    ) -> None:
        assert event_of(State.DEAD, Delivery.DELIVERED, failed_later=failed_later, in_doubt=in_doubt) is event

    def test_on_the_wire_waits_for_its_own_outcome(self) -> None:
        for delivery in Delivery:
            assert event_of(State.SENDING, delivery) is None
            assert is_pending(State.SENDING, delivery) is (delivery is not Delivery.UNKNOWN)
            assert not is_pending(State.SENT, delivery)
        assert is_pending(State.QUEUED, Delivery.FAILED_LATER)
        assert not is_pending(State.QUEUED, Delivery.DELIVERED)
