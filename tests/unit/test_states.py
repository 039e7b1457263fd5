"""The life of a job as a table: what it shows, and what it refuses."""

from __future__ import annotations

import pytest

from sendq.rules.states import FINAL, MOVES, WAITING, Event, IllegalMove, State, move


class TestTheTable:
    def test_has_a_row_for_every_state(self) -> None:
        assert set(MOVES) == set(State)

    def test_uses_every_event(self) -> None:
        assert {event for moves in MOVES.values() for event in moves} == set(Event)

    def test_reaches_every_state_from_the_queue(self) -> None:
        reached, frontier = {State.QUEUED}, [State.QUEUED]
        while frontier:
            for after in MOVES[frontier.pop()].values():
                if after not in reached:
                    reached.add(after)
                    frontier.append(after)
        assert reached == set(State)

    def test_lets_every_job_come_to_an_end(self) -> None:
        for state in WAITING:
            assert FINAL & set(MOVES[state].values())

    def test_divides_the_states_into_waiting_and_final(self) -> None:
        assert set(State) == FINAL | WAITING
        assert not FINAL & WAITING

    def test_leads_out_of_an_end_only_by_a_fact_or_by_hand(self) -> None:
        assert {event for state in FINAL for event in MOVES[state]} == {Event.ACCEPT, Event.RETRY, Event.FAIL_LATER}

    @pytest.mark.parametrize("state", sorted(set(State) - {State.SENT}))
    def test_never_refuses_that_a_job_was_sent(self, state: State) -> None:
        assert move(state, Event.ACCEPT) is State.SENT

    def test_lets_nothing_undo_a_sent_job_but_the_report_that_it_never_went_out(self) -> None:
        assert MOVES[State.SENT] == {Event.FAIL_LATER: State.DEAD}

    def test_never_expires_or_cancels_a_job_that_may_have_gone_out(self) -> None:
        assert Event.EXPIRE not in MOVES[State.IN_DOUBT]
        assert Event.CANCEL not in MOVES[State.IN_DOUBT]

    def test_begins_only_what_waits(self) -> None:
        assert [state for state in State if Event.BEGIN in MOVES[state]] == [State.QUEUED]


class TestAMove:
    @pytest.mark.parametrize(
        ("state", "event"), [(state, event) for state in State for event in Event if event not in MOVES[state]]
    )
    def test_that_the_table_does_not_show_is_refused(self, state: State, event: Event) -> None:
        with pytest.raises(IllegalMove, match=f"{event.value}.*{state.value}"):
            move(state, event)

    @pytest.mark.parametrize(("state", "event"), [(state, event) for state in State for event in MOVES[state]])
    def test_that_the_table_shows_leads_where_it_says(self, state: State, event: Event) -> None:
        assert move(state, event) is MOVES[state][event]
