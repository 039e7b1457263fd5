"""A turn, with a fake of what it sees of its process (`tests.support.turn`)."""

from __future__ import annotations

import random
from dataclasses import replace
from uuid import UUID

import pytest

from sendq.clock import SECOND, Micros
from sendq.rules.pace import MINUTE, PACES, Limit, Pace, stated_costs
from sendq.rules.preflight import DEATHS_TOLERATED, KEY_MAX_AGE
from sendq.rules.rule_ids import OUTSIDE_WINDOW, RETURNED
from sendq.rules.starts import LONGEST_PAUSE
from sendq.rules.states import Event
from tasks import turn
from tasks.policy.failure import Answer
from tests.support.turn import (
    START,
    TURN_TIME,
    WIDE,
    WORKER,
    Process,
    answer,
    claim,
    fails,
    fails_once,
    job,
    most_at_once,
)

NO_CONNECTION = answer(None, fault="connect")  # holds the whole application
NO_ANSWER = answer(None, fault="timeout")
SERVER_ERROR = answer(503, {"error": {"type": "provider_error", "message": "x"}})
GRANT_REFUSED = answer(401, {"error": {"type": "unauthorized", "message": "Unauthorized"}})
STILL_RUNNING = answer(409, {"error": {"type": "concurrent_idempotent_request", "message": "in progress"}})
THROTTLED = answer(429, {"error": {"type": "rate_limit_error", "message": "slow down"}})


class TestCallsAtOnce:
    def test_double_while_they_succeed(self) -> None:
        process = Process(usually=(0.1, answer())).run(claim([job() for _ in range(20)]))
        begins = [len(entry.begins) for entry in process.records]
        assert begins[:3] == [2, 3, 5], "one call, two, then four and eight: with one and three still on the wire"
        assert process.most_at_once == WIDE.width
        assert process.end.ramp == WIDE.width
        assert process.events == [Event.ACCEPT] * 20

    def test_are_no_more_after_a_failure(self) -> None:
        process = Process(usually=(0.1, SERVER_ERROR)).run(claim([job() for _ in range(5)], ramp=2))
        assert process.most_at_once == 2
        assert process.end.ramp == 2
        assert process.end.successes == 0

    def test_are_no_more_than_the_width_of_the_lane(self) -> None:
        process = Process().run(claim([job() for _ in range(10)], pace=Pace(3)))
        assert process.most_at_once == 3

    def test_are_one_in_a_lane_that_is_one_wide(self) -> None:
        process = Process().run(claim([job() for _ in range(5)], pace=Pace(1)))
        assert process.most_at_once == 1
        assert len(process.calls) == 5

    def test_are_no_more_than_the_slots_of_the_turn(self) -> None:
        """The lane has earned eight calls at once; the turn was given one slot, and earns more as it succeeds."""
        process = Process(usually=(0.1, SERVER_ERROR)).run(claim([job() for _ in range(5)], ramp=8, slots=1))
        assert process.most_at_once == 1

    def test_count_what_is_being_recorded(self) -> None:
        """Two outcomes within one commit must not both begin what there is room for once."""
        jobs = [job() for _ in range(30)]
        process = Process(usually=(0.01, SERVER_ERROR)).run(claim(jobs, ramp=4))
        open_jobs = 4
        for entry in process.records:
            open_jobs += len(entry.begins) - (entry.outcome is not None)
            assert open_jobs <= 4

    @pytest.mark.parametrize("seed", range(40))
    def test_are_never_more_than_the_lane_has_earned_whatever_comes_when(self, seed: int) -> None:
        """Answers and commits fall on the same few milliseconds, so that all orders of them occur."""
        chance = random.Random(seed)
        jobs = [job() for _ in range(20)]
        brought = {one.id: (chance.choice([0.0, 0.001, 0.002]), SERVER_ERROR) for one in jobs}
        process = Process(replies=brought, commit_s=chance.choice([0.0, 0.001])).run(claim(jobs, ramp=3))
        assert process.most_at_once <= 3
        assert set(process.outcomes) == {one.id for one in jobs}
        assert process.records[-1].end is not None

    @pytest.mark.parametrize("seed", range(100))
    def test_are_never_more_than_the_width_though_answers_and_commits_come_together(self, seed: int) -> None:
        """An outcome that comes just before a begun job's task takes its first step counts that job too."""
        chance = random.Random(seed)
        width = chance.choice([2, 3, 4])
        jobs = [job() for _ in range(40)]
        brought = {one.id: (chance.choice([0.0, 0.001, 0.002, 0.003]), answer()) for one in jobs}
        process = Process(replies=brought, commit_s=chance.choice([0.0, 0.001, 0.002]))
        process.run(claim(jobs, ramp=width, pace=Pace(width)))
        assert process.most_at_once <= width
        assert process.events == [Event.ACCEPT] * len(jobs)


class TestNoAnswer:
    def test_narrows_the_lane_to_one_call_at_a_time(self) -> None:
        jobs = [job() for _ in range(8)]
        silent = {one.id: (0.5, NO_ANSWER) for one in jobs[:4]}
        process = Process(replies=silent, usually=(0.1, SERVER_ERROR)).run(claim(jobs, ramp=4))
        later = [call for call in process.calls if call.job_id not in silent]
        assert later
        assert most_at_once(later) == 1
        assert process.end.ramp == 1

    def test_leaves_a_send_unknown_under_the_same_key(self) -> None:
        one = job()
        outcome = Process(usually=(0.1, NO_ANSWER)).run(claim([one])).outcomes[one.id]
        assert (outcome.event, outcome.sent, outcome.new_generation) == (Event.RETURN, "maybe", False)

    @pytest.mark.parametrize(("age", "event"), [(KEY_MAX_AGE - SECOND, Event.DOUBT), (0, Event.RETURN)])
    def test_leaves_a_send_in_doubt_whose_key_can_soon_no_longer_tell(self, age: Micros, event: Event) -> None:
        one = job(key_at=START - age)
        assert Process(usually=(2.0, NO_ANSWER)).run(claim([one])).events == [event]

    def test_is_not_outweighed_by_a_refusal_that_comes_later(self) -> None:
        """The first request may have gone out, whatever the API's gate says of the second."""
        one = job(doubt_at=START - SECOND, key_at=START - SECOND)
        outcome = Process(usually=(0.1, THROTTLED)).run(claim([one])).outcomes[one.id]
        assert (outcome.sent, outcome.new_generation) == ("maybe", False)


class TestAnAnswerThatStatesWhatItsCallUsed:
    def of(self, **headers: str) -> dict[str, int]:
        """What the lane knows afterwards, if each answer has these headers."""
        stated = {name.replace("_", "-"): value for name, value in headers.items()}
        each = Answer(200, {"x-request-id": "r"} | stated, answer().body)
        process = Process(usually=(0.1, each)).run(claim([job() for _ in range(2)], pace=PACES["google"]))
        assert process.events == [Event.ACCEPT] * 2
        return stated_costs(process.end.used)

    def test_corrects_the_pace_with_the_end_of_the_turn(self) -> None:
        assert self.of(nylas_gmail_quota_usage="115") == {"send": 115}

    def test_is_ignored_if_it_replays_an_earlier_one(self) -> None:
        assert self.of(nylas_gmail_quota_usage="115", idempotent_response="true") == {}

    def test_is_rare_and_the_pace_is_as_documented_without_it(self) -> None:
        assert self.of() == {}


class TestAClockThatIsSetBack:
    def test_makes_no_begun_job_wait_for_its_planned_start(self) -> None:
        claimed = claim([job()])
        late = replace(claimed, starts=dict.fromkeys(claimed.starts, START + 300 * SECOND))
        process = Process(usually=(0.1, answer())).run(late)
        assert [call.began for call in process.calls] == [START]


class TestAnOutage:
    PAGE = answer(200, {"status": "ok"})

    def test_stops_the_turn_and_holds_the_application(self) -> None:
        """The first answer may be an accident; the second is one of many."""
        process = Process(usually=(0.1, self.PAGE), outage_from=2).run(claim([job() for _ in range(5)]))
        assert process.events == [Event.RETURN] * 2
        assert process.holds == [("application", False), ("application", True)]

    def test_is_none_after_a_success(self) -> None:
        jobs = [job() for _ in range(3)]
        replies = {jobs[0].id: (0.1, self.PAGE), jobs[2].id: (0.1, self.PAGE)}
        process = Process(replies=replies, usually=(0.1, answer()), outage_from=2).run(claim(jobs, pace=Pace(1)))
        assert process.holds == []


class TestASlowCall:
    def test_lets_its_turn_begin_no_more(self) -> None:
        """The turn's time is not over: only that a call became slow ends it."""
        slow, quick, *waiting = [job() for _ in range(6)]
        replies = {slow.id: (20.0, answer()), quick.id: (6.0, answer())}
        process = Process(replies=replies, turn_time=60 * SECOND).run(claim([slow, quick, *waiting], ramp=2))
        assert process.called == [quick.id, slow.id]
        assert process.events == [Event.ACCEPT] * 2

    def test_gives_back_the_slots_for_which_the_turn_has_no_call(self) -> None:
        slow, quick = job(), job()
        replies = {slow.id: (20.0, answer()), quick.id: (1.0, answer())}
        process = Process(replies=replies).run(claim([slow, quick], ramp=2))
        ((shrink, spare),) = process.shrinks
        assert (shrink.slots, spare) == (0, 1)

    def test_keeps_the_slots_of_calls_that_are_quick(self) -> None:
        slow, quick = job(), job()
        replies = {slow.id: (20.0, answer()), quick.id: (8.0, answer())}
        process = Process(replies=replies).run(claim([slow, quick], ramp=2))
        assert [(shrink.slots, spare) for shrink, spare in process.shrinks] == [(1, 0), (0, 0)]

    def test_may_be_one_that_waits_for_its_process(self) -> None:
        suspect = job(deaths=DEATHS_TOLERATED)
        assert Process(process_after_s=10).run(claim([suspect])).shrinks


class TestAHold:
    @pytest.mark.parametrize("refusal", [GRANT_REFUSED, THROTTLED], ids=["reauth", "requeue"])
    def test_of_the_grant_ends_the_turn(self, refusal: Answer) -> None:
        jobs = [job() for _ in range(5)]
        process = Process(replies={jobs[0].id: (0.01, refusal)}).run(claim(jobs))
        assert process.called == [jobs[0].id]
        outcome = process.outcomes[jobs[0].id]
        assert outcome.hold is not None
        assert outcome.hold.scope == "grant"
        assert process.holds == [], "the other turns of the process are of other grants"

    def test_lets_calls_on_the_wire_end(self) -> None:
        held, other, *waiting = [job() for _ in range(5)]
        replies = {held.id: (0.1, THROTTLED), other.id: (1.0, answer())}
        process = Process(replies=replies).run(claim([held, other, *waiting], ramp=2))
        assert process.called == [held.id, other.id]
        assert process.end.successes == 1

    def test_lasts_longer_when_it_follows_another(self) -> None:
        lengths = []
        for streak, around in ((0, 0), (2, 0), (0, 4)):  # of the lane; of its pair
            one = job()
            claimed = claim([one], streak=streak, around=around)
            outcome = Process(usually=(0.0, THROTTLED)).run(claimed).outcomes[one.id]
            assert outcome.hold is not None
            assert outcome.hold.until is not None
            lengths.append(outcome.hold.until - START)
        assert lengths == sorted(set(lengths))

    def test_keeps_the_place_of_its_job(self) -> None:
        one = job(next_at=START - 5 * SECOND)
        outcome = Process(usually=(0.1, THROTTLED)).run(claim([one])).outcomes[one.id]
        assert outcome.next_at == one.next_at

    def test_above_the_grant_is_told_before_the_commit_and_after_it(self) -> None:
        process = Process(usually=(0.01, NO_CONNECTION)).run(claim([job(), job()]))
        assert process.holds == [("application", False), ("application", True)]
        assert len(process.calls) == 1

    def test_above_the_grant_is_not_for_ever_though_the_ledger_fails(self) -> None:
        process = Process(usually=(0.01, NO_CONNECTION), recording=fails)
        with pytest.raises(RuntimeError):
            process.run(claim([job()]))
        assert process.holds == [("application", False), ("application", True)]


class TestAJobThatMayHaveKilledWorkers:
    def test_is_called_in_a_process_of_its_own(self) -> None:
        suspect, other = job(deaths=DEATHS_TOLERATED), job(deaths=DEATHS_TOLERATED - 1)
        process = Process().run(claim([suspect, other]))
        assert process.isolated == [suspect.id]
        assert process.events == [Event.ACCEPT] * 2

    def test_that_kills_it_is_recorded_as_dead_there(self) -> None:
        suspect = job(deaths=DEATHS_TOLERATED)
        outcome = Process(usually=(0.1, answer(None, fault="died"))).run(claim([suspect])).outcomes[suspect.id]
        assert outcome.died

    def test_waits_a_while_if_no_process_can_be_started(self) -> None:
        suspect = job(deaths=DEATHS_TOLERATED)
        process = Process(process_free=False).run(claim([suspect]))
        outcome = process.outcomes[suspect.id]
        assert (outcome.event, outcome.rule, outcome.attempt) == (Event.RETURN, RETURNED, None)
        assert outcome.next_at == pytest.approx(START + turn.PROCESS_PAUSE, abs=SECOND // 10)
        assert process.calls == []


class TestJobsOfOneObject:
    def test_go_one_after_another(self) -> None:
        first, second = (job("modify", object_id="m1") for _ in range(2))
        others = [job("modify") for _ in range(4)]
        process = Process(replies={first.id: (1.0, answer())}, usually=(0.1, answer()))
        process.run(claim([first, second, *others], ramp=4))
        calls = {call.job_id: call for call in process.calls}
        assert len(calls) == 6
        assert calls[first.id].ended < calls[second.id].began
        assert all(calls[one.id].began < calls[first.id].ended for one in others), "others overtake"

    def test_wait_for_another_turn_if_the_first_did_not_succeed(self) -> None:
        first, second = (job("modify", object_id="m1") for _ in range(2))
        other = job("modify")
        process = Process(replies={first.id: (0.1, SERVER_ERROR)}).run(claim([first, second, other], ramp=2))
        assert set(process.called) == {first.id, other.id}


class TestThePace:
    def test_lets_calls_begin_as_it_allows(self) -> None:
        process = Process(turn_time=MINUTE).run(claim([job() for _ in range(5)], stretch=SECOND // 2, pace=Pace(4)))
        assert process.begun_at == [0, 0.5, 1, 1.5, 2]

    def test_lets_calls_begin_while_others_are_on_the_wire(self) -> None:
        process = Process(usually=(3.0, answer()), turn_time=MINUTE, commit_s=0.2)
        process.run(claim([job() for _ in range(4)], stretch=SECOND // 2, pace=Pace(4), ramp=4))
        assert process.begun_at == [0, 0.5, 1, 1.5]

    def test_ends_a_turn_that_would_have_to_wait_long(self) -> None:
        limit = Limit("minute", 100, MINUTE, {"send": 10})
        process = Process(turn_time=MINUTE).run(claim([job() for _ in range(3)], pace=Pace(4, (limit,))))
        assert len(process.calls) == 1
        assert process.end.ready_at > START + LONGEST_PAUSE
        assert process.end.used is not None

    def test_keeps_modifications_apart_by_their_real_starts(self) -> None:
        """The first begins 0.4 s late: the second, planned for 0.55 s, keeps its distance all the same."""
        claimed = claim(
            [job("modify") for _ in range(3)], pace=Pace(2), ramp=2, spacing=SECOND // 2, spacing_until=START + MINUTE
        )
        process = Process(turn_time=MINUTE)
        process.clock.now += 2 * SECOND // 5
        process.run(claimed)
        assert process.begun_at == [0.4, 0.95, 1.5]


class TestTheEnd:
    def test_is_in_the_commit_of_the_last_outcome(self) -> None:
        process = Process().run(claim([job() for _ in range(3)]))
        assert process.records[-1].end is not None
        assert process.finished == []
        assert process.end.successes == 3

    @pytest.mark.parametrize("seed", range(60))
    def test_is_the_last_that_is_recorded_though_an_answer_comes_just_when_the_pace_lets_a_job_begin(
        self, seed: int
    ) -> None:
        """A job is chosen 0.5 s after each start, a second before its own, while the last call is still on the wire."""
        chance = random.Random(seed)
        jobs = [job() for _ in range(12)]
        brought = {one.id: (chance.choice([0.5, 0.5005, 0.501, 0.502, 0.503, 1.0]), answer()) for one in jobs}
        process = Process(turn_time=MINUTE, replies=brought, commit_s=chance.choice([0.0, 0.001, 0.002]))
        process.run(claim(jobs, ramp=2, pace=Pace(2), stretch=3 * SECOND // 2))
        *earlier, last = process.records
        assert last.end is not None
        assert [entry for entry in earlier if entry.end is not None] == []
        assert process.events == [Event.ACCEPT] * len(jobs)

    def test_of_a_turn_with_nothing_to_do_is_recorded_at_once(self) -> None:
        process = Process().run(claim([]))
        assert process.records == []
        assert process.end.ramp == 1

    def test_comes_when_its_time_is_over(self) -> None:
        process = Process(usually=(0.3, answer())).run(claim([job() for _ in range(50)], pace=Pace(1)))
        assert process.begun_at[-1] < TURN_TIME / SECOND
        assert process.calls[-1].ended >= START + TURN_TIME - 0.3 * SECOND
        assert len(process.calls) == 7

    def test_comes_when_its_worker_was_taken_for_dead(self) -> None:
        process = Process()

        def taken_for_dead() -> None:
            process.worker_id = UUID(int=8)

        process.recording = taken_for_dead
        process.run(claim([job() for _ in range(5)]))
        assert len(process.calls) == 1
        assert process.events == [Event.ACCEPT, *[Event.RETURN] * 2], "begun under the old name, and given back"

    def test_states_what_its_waiting_jobs_need(self) -> None:
        """A lane whose sends are used up is not ready because a modification could go."""
        limit = Limit("minute", 100, MINUTE, {"send": 10})
        waiting = claim([job(), job()], pace=Pace(4, (limit,)))
        sends = Process().run(waiting).end.ready_at
        changes = Process().run(claim([job(), job("modify")], pace=Pace(4, (limit,)))).end.ready_at
        assert sends > changes


class TestDirectlyBeforeItsCall:
    def test_a_job_is_not_called_that_the_ledger_did_not_let_begin(self) -> None:
        jobs = [job() for _ in range(3)]
        process = Process(cancelled={jobs[1].id}).run(claim(jobs))
        assert set(process.called) == {jobs[0].id, jobs[2].id}
        assert jobs[1].id not in process.outcomes

    def test_a_job_goes_back_if_calls_may_no_longer_begin(self) -> None:
        one, late = job(), job()
        process = Process(refuses_from=START + SECOND // 4).run(claim([one, late], ramp=2, stretch=SECOND // 2))
        assert process.called == [one.id]
        outcome = process.outcomes[late.id]
        assert (outcome.event, outcome.rule, outcome.attempt) == (Event.RETURN, RETURNED, None)
        assert outcome.next_at == late.next_at

    def test_a_job_expires_whose_time_ends_while_it_waits_for_its_start(self) -> None:
        one, late = job(), job(expires_at=START + SECOND // 4)
        process = Process().run(claim([one, late], ramp=2, stretch=SECOND // 2))
        assert process.called == [one.id]
        outcome = process.outcomes[late.id]
        assert (outcome.event, outcome.attempt) == (Event.EXPIRE, None)

    def test_a_send_is_in_doubt_whose_key_has_become_too_old_to_tell(self) -> None:
        one = job(doubt_at=START - KEY_MAX_AGE, key_at=START - KEY_MAX_AGE)
        process = Process().run(claim([one]))
        assert process.calls == []
        assert process.outcomes[one.id].event is Event.DOUBT

    def test_a_send_is_in_doubt_while_no_key_is_trusted(self) -> None:
        one = job(doubt_at=START - SECOND, key_at=START - SECOND)
        assert Process(key_max_age=0).run(claim([one])).events == [Event.DOUBT]
        assert Process().run(claim([one])).events == [Event.ACCEPT]


class TestAWindow:
    """The turns of these tests begin at 20:26:40."""

    CLOSED, CLOSES_SOON = "09:00-10:00 mon-sun UTC", "09:00-20:27 mon-sun UTC"

    @pytest.mark.parametrize("whose", ["job", "lane"])
    def test_that_closes_ends_the_turn(self, whose: str) -> None:
        jobs = [job(time_window=self.CLOSES_SOON if whose == "job" else None) for _ in range(10)]
        of_lane = None if whose == "job" else self.CLOSES_SOON
        process = Process(usually=(4.0, answer()), turn_time=60 * SECOND)
        process.run(claim(jobs, pace=Pace(1), time_window=of_lane))
        assert len(process.called) == 5
        assert process.clock.now < START + 22 * SECOND
        assert process.end.successes == 5

    def test_that_closed_before_the_call_returns_the_job(self) -> None:
        late = job(time_window=self.CLOSED)
        process = Process().run(claim([late]))
        outcome = process.outcomes[late.id]
        assert (process.called, outcome.event, outcome.rule) == ([], Event.RETURN, OUTSIDE_WINDOW)
        assert outcome.next_at == START + (12 * 3600 + 33 * 60 + 20) * SECOND

    def test_that_is_closed_does_not_keep_back_a_send_that_may_have_gone_out(self) -> None:
        sent = job(time_window=self.CLOSED, doubt_at=START - SECOND)
        assert Process().run(claim([sent])).called == [sent.id]


class TestABugInAnAttempt:
    @pytest.mark.parametrize(("operation", "event"), [("send", Event.DOUBT), ("modify", Event.GIVE_UP)])
    def test_leaves_its_job_to_a_person(self, operation: str, event: Event) -> None:
        one = job(operation)
        process = Process(broken=fails).run(claim([one]))
        outcome = process.outcomes[one.id]
        assert (outcome.event, outcome.rule, outcome.sent) == (event, turn.BUG, "maybe")
        assert process.bugs == [one.id]

    def test_leaves_the_other_jobs_alone(self) -> None:
        jobs = [job() for _ in range(4)]
        process = Process()
        process.broken = fails_once()
        process.run(claim(jobs))
        assert process.bugs == [jobs[0].id]
        assert process.events == [Event.DOUBT, *[Event.ACCEPT] * 3]

    def test_in_recording_lets_the_other_calls_be_recorded_first(self) -> None:
        first, second = job(), job()
        process = Process(replies={second.id: (1.0, answer())})
        process.recording = fails_once()
        with pytest.raises(RuntimeError):
            process.run(claim([first, second], ramp=2))
        assert process.outcomes[second.id].event is Event.ACCEPT


class TestAnOutcome:
    def test_says_what_an_attempt_was(self) -> None:
        one = job(attempts=2, generation=1)
        claimed = claim([one])
        outcome = Process(usually=(0.25, SERVER_ERROR)).run(claimed).outcomes[one.id]
        assert outcome.attempt is not None
        told = {
            name: getattr(outcome.attempt, name) for name in ("job_id", "generation", "worker_id", "status", "rule")
        }
        assert told == {"job_id": one.id, "generation": 1, "worker_id": WORKER, "status": 503, "rule": outcome.rule}
        assert outcome.attempt.ended_at - outcome.attempt.begun_at == pytest.approx(SECOND // 4, abs=2)
        assert (outcome.fence, outcome.lane_id, outcome.attempts) == (claimed.lane.fence, claimed.lane.id, 2)

    def test_of_a_send_names_its_message(self) -> None:
        one = job()
        assert Process().run(claim([one])).outcomes[one.id].message_id == "m1"

    def test_of_a_listing_has_its_page(self) -> None:
        one = job("list")
        listed = answer(200, {"data": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"})
        outcome = Process(usually=(0.1, listed)).run(claim([one])).outcomes[one.id]
        assert outcome.page is not None
        assert tuple(outcome.page.found) == ("a", "b")
        assert outcome.page.following is not None
        assert outcome.message_id is None

    def test_counts_conflicts_with_a_request_that_is_still_running(self) -> None:
        one, other = job(), job()
        process = Process(replies={one.id: (0.1, STILL_RUNNING)}).run(claim([one, other]))
        assert [process.outcomes[which.id].conflict for which in (one, other)] == [True, False]

    def test_of_a_throttle_stretches_a_pace_that_learns(self) -> None:
        for pace, learns in ((PACES["unknown"], True), (WIDE, False)):
            one = job()
            assert Process(usually=(0.1, THROTTLED)).run(claim([one], pace=pace)).outcomes[one.id].throttled is learns
