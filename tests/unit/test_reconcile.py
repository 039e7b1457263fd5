"""What a look into the mailbox says about a send that may have gone out, in every combination."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND, Micros
from sendq.messages.forms import MAX_MULTIPART_BYTES
from sendq.rules.reconcile import (
    APART,
    EARLY_LOOKS,
    KEY_LIFE,
    LONGEST_REQUEST,
    LONGEST_UPLOAD,
    LOOKS_LEAST,
    MISSES_NEEDED,
    RAREST,
    REFUSED_PAUSE,
    ROUNDING,
    Choice,
    Delays,
    Look,
    Seen,
    after_absence,
    by_itself,
    counts_from,
    first_look,
    judge,
    next_look,
)
from sendq.rules.states import Event
from tasks.calling.nylas import SLOWEST_UPLOAD

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
T = 1_780_000_000 * SECOND
DELAYS = Delays(settle=15 * MINUTE, look_for=6 * HOUR)


@dataclass(frozen=True)
class Job:
    form: str | None = "json"
    key_at: Micros | None = T
    doubt_at: Micros | None = T + 10 * MINUTE
    refused_at: Micros | None = None
    due_at: Micros = T - HOUR
    expires_at: Micros | None = None
    cancel_at: Micros | None = None
    looks: int | None = 0
    misses: int | None = 0


JOB = Job()
COUNTS = counts_from(JOB, DELAYS)
NOTHING = Look(answered=True, whole=True)


class TestNotFoundCounts:
    def test_when_the_keys_hour_is_over_and_not_a_moment_sooner(self) -> None:
        assert counts_from(Job(key_at=T, doubt_at=T), DELAYS) == T + KEY_LIFE

    def test_when_the_index_has_had_its_time_since_the_last_request(self) -> None:
        late = T + 55 * MINUTE
        assert counts_from(Job(key_at=T, doubt_at=late), DELAYS) == late + LONGEST_REQUEST + 15 * MINUTE

    def test_later_if_the_index_is_given_more_time(self) -> None:
        assert counts_from(JOB, replace(DELAYS, settle=2 * HOUR)) == T + 10 * MINUTE + LONGEST_REQUEST + 2 * HOUR

    @pytest.mark.parametrize("form", ["multipart", "mime"])
    def test_later_by_what_a_large_body_may_have_taken_to_go_out(self, form: str) -> None:
        slow = replace(DELAYS, settle=2 * HOUR)
        assert counts_from(Job(form=form), slow) == counts_from(JOB, slow) + LONGEST_UPLOAD

    def test_as_late_as_the_client_may_take_to_send_the_largest_body(self) -> None:
        assert LONGEST_UPLOAD / SECOND >= MAX_MULTIPART_BYTES / SLOWEST_UPLOAD

    def test_an_hour_after_the_last_request_if_nobody_knows_when_the_key_was_first_used(self) -> None:
        assert counts_from(Job(key_at=None, doubt_at=T), DELAYS) == T + KEY_LIFE

    @pytest.mark.parametrize("asked_at", [T, COUNTS - 1])
    def test_never_before(self, asked_at: Micros) -> None:
        assert judge(NOTHING, JOB, DELAYS, asked_at=asked_at, later=True) is Seen.EARLY

    def test_from_then_on(self) -> None:
        assert judge(NOTHING, JOB, DELAYS, asked_at=COUNTS, later=True) is Seen.ABSENT


class TestALook:
    @pytest.mark.parametrize(
        ("answered", "whole", "draft", "later", "early"), list(itertools.product([True, False], repeat=5))
    )
    def test_that_finds_it_needs_nothing_else(
        self, answered: bool, whole: bool, draft: bool, later: bool, early: bool
    ) -> None:
        look = Look(answered, whole=whole, found="m1", draft=draft)
        assert judge(look, JOB, DELAYS, asked_at=T if early else COUNTS, later=later) is Seen.FOUND

    @pytest.mark.parametrize(
        ("answered", "whole", "draft", "later", "early"), list(itertools.product([True, False], repeat=5))
    )
    def test_proves_absence_only_if_all_of_it_holds(
        self, answered: bool, whole: bool, draft: bool, later: bool, early: bool
    ) -> None:
        look = Look(answered, whole=whole, draft=draft)
        seen = judge(look, JOB, DELAYS, asked_at=COUNTS - 1 if early else COUNTS, later=later)
        assert (seen is Seen.ABSENT) == (answered and whole and not draft and later and not early)

    @pytest.mark.parametrize(
        ("look", "later", "seen"),
        [
            (Look(answered=False), True, Seen.REFUSED),
            (replace(NOTHING, draft=True), True, Seen.DRAFT),
            (replace(NOTHING, whole=False), True, Seen.CROWDED),
            (NOTHING, False, Seen.SILENT),
        ],
    )
    def test_that_proves_nothing_says_what_is_missing(self, look: Look, later: bool, seen: Seen) -> None:
        assert judge(look, JOB, DELAYS, asked_at=COUNTS, later=later) is seen


class TestWhenItIsLookedFor:
    def test_twice_early_and_then_when_not_found_counts(self) -> None:
        last = T + 10 * MINUTE
        at, looks = first_look(JOB, DELAYS, now=last), []
        while at < COUNTS:
            looks.append(at)
            at = next_look(JOB, Seen.EARLY, DELAYS, now=at)
        assert looks == [last + early for early in EARLY_LOOKS]
        assert at == COUNTS

    def test_at_once_if_it_was_taken_up_late(self) -> None:
        assert first_look(JOB, DELAYS, now=COUNTS + 5) == COUNTS + 5

    def test_once_more_soon_after_its_absence_was_proven(self) -> None:
        assert next_look(replace(JOB, looks=9), Seen.ABSENT, DELAYS, now=COUNTS) == COUNTS + APART

    @pytest.mark.parametrize("seen", [Seen.SILENT, Seen.CROWDED, Seen.DRAFT])
    def test_ever_more_rarely(self, seen: Seen) -> None:
        pauses = [next_look(replace(JOB, looks=n), seen, DELAYS, now=COUNTS) - COUNTS for n in range(10)]
        assert pauses[:3] == [5 * MINUTE, 10 * MINUTE, 20 * MINUTE]
        assert pauses == sorted(pauses)
        assert pauses[-1] == RAREST

    def test_not_soon_if_the_api_did_not_answer(self) -> None:
        assert next_look(JOB, Seen.REFUSED, DELAYS, now=COUNTS) == COUNTS + REFUSED_PAUSE

    @given(
        key_at=st.none() | st.integers(0, 10 * HOUR),
        doubt_at=st.integers(0, 10 * HOUR),
        now=st.integers(0, 30 * HOUR),
        seen=st.sampled_from(list(Seen)),
        looks=st.integers(0, 30_000),
    )
    def test_always_later_than_now(self, key_at: int | None, doubt_at: int, now: int, seen: Seen, looks: int) -> None:
        job = Job(key_at=key_at, doubt_at=doubt_at, looks=looks)
        assert next_look(job, seen, DELAYS, now=now) > now


class TestProvenAbsence:
    def test_is_needed_twice(self) -> None:
        assert after_absence(replace(JOB, misses=MISSES_NEEDED - 2), Choice.RESEND, now=COUNTS) is None
        assert after_absence(replace(JOB, misses=MISSES_NEEDED - 1), Choice.RESEND, now=COUNTS) is Event.RETURN

    @pytest.mark.parametrize(
        ("choice", "event"), [(Choice.WAIT, Event.RETURN), (Choice.RESEND, Event.RETURN), (Choice.DEAD, Event.GIVE_UP)]
    )
    def test_sends_it_again_unless_it_is_to_be_given_up(self, choice: Choice, event: Event) -> None:
        assert after_absence(replace(JOB, misses=1), choice, now=COUNTS) is event

    @pytest.mark.parametrize("choice", list(Choice))
    def test_lets_it_end_that_was_cancelled_or_is_past_its_time(self, choice: Choice) -> None:
        assert after_absence(replace(JOB, misses=1, cancel_at=T), choice, now=COUNTS) is Event.CANCEL
        assert after_absence(replace(JOB, misses=1, expires_at=COUNTS), choice, now=COUNTS) is Event.EXPIRE
        assert after_absence(replace(JOB, misses=1, expires_at=COUNTS + 1), choice, now=COUNTS) is not Event.EXPIRE

    @pytest.mark.parametrize("choice", Choice)
    def test_of_what_is_not_due_yet_returns_it_to_its_due_time(self, choice: Choice) -> None:
        assert after_absence(replace(JOB, misses=1, due_at=COUNTS + 1), choice, now=COUNTS) is Event.RETURN
        assert after_absence(replace(JOB, misses=1, due_at=COUNTS), Choice.DEAD, now=COUNTS) is Event.GIVE_UP


class TestARefusalThatMayHaveComeAfterTheMessageWentOut:
    """The request was answered, so nothing is on its way; and the account asked for quiet."""

    REFUSED = replace(JOB, refused_at=T + 11 * MINUTE)
    OVER = T + 11 * MINUTE + DELAYS.settle

    def test_is_looked_for_once_when_the_index_has_had_its_time(self) -> None:
        assert counts_from(self.REFUSED, DELAYS) == self.OVER
        assert first_look(self.REFUSED, DELAYS, now=T + 11 * MINUTE) == self.OVER + ROUNDING
        assert first_look(self.REFUSED, DELAYS, now=self.OVER + HOUR) == self.OVER + HOUR

    @pytest.mark.parametrize("later", [True, False])
    def test_is_not_sent_if_that_one_whole_listing_does_not_show_it(self, later: bool) -> None:
        assert judge(NOTHING, self.REFUSED, DELAYS, asked_at=self.OVER, later=later) is Seen.ABSENT
        assert judge(NOTHING, self.REFUSED, DELAYS, asked_at=self.OVER - 1, later=later) is Seen.EARLY

    @pytest.mark.parametrize(
        ("look", "seen"),
        [
            (Look(answered=False), Seen.REFUSED),
            (replace(NOTHING, draft=True), Seen.DRAFT),
            (replace(NOTHING, whole=False), Seen.CROWDED),
            (replace(NOTHING, found="m1"), Seen.FOUND),
        ],
    )
    def test_is_settled_by_nothing_less(self, look: Look, seen: Seen) -> None:
        assert judge(look, self.REFUSED, DELAYS, asked_at=self.OVER, later=True) is seen

    @pytest.mark.parametrize(
        ("looks", "seen"), [(None, Seen.DRAFT), (1, Seen.DRAFT), (2, Seen.ABSENT), (9, Seen.ABSENT)]
    )
    def test_is_not_sent_if_it_stays_a_draft(self, looks: int | None, seen: Seen) -> None:
        look = replace(NOTHING, draft=True)
        assert judge(look, replace(self.REFUSED, looks=looks), DELAYS, asked_at=self.OVER, later=False) is seen
        assert judge(look, replace(JOB, looks=looks), DELAYS, asked_at=COUNTS, later=True) is Seen.DRAFT

    @pytest.mark.parametrize("choice", list(Choice))
    def test_goes_again_whatever_is_to_become_of_unknown_outcomes(self, choice: Choice) -> None:
        assert after_absence(self.REFUSED, choice, now=self.OVER) is Event.RETURN
        assert after_absence(replace(self.REFUSED, cancel_at=T), choice, now=self.OVER) is Event.CANCEL
        assert after_absence(replace(self.REFUSED, expires_at=self.OVER), choice, now=self.OVER) is Event.EXPIRE

    @pytest.mark.parametrize("seen", [Seen.EARLY, Seen.DRAFT, Seen.CROWDED, Seen.REFUSED])
    def test_is_left_alone_for_a_while_after_a_look_that_settled_nothing(self, seen: Seen) -> None:
        assert next_look(self.REFUSED, seen, DELAYS, now=self.OVER) >= self.OVER + APART


class TestLookingInVain:
    VAIN = replace(JOB, looks=LOOKS_LEAST)
    OVER = COUNTS + DELAYS.look_for

    @pytest.mark.parametrize(
        ("choice", "event"), [(Choice.WAIT, None), (Choice.RESEND, Event.RETURN), (Choice.DEAD, Event.GIVE_UP)]
    )
    def test_leads_to_what_was_chosen(self, choice: Choice, event: Event | None) -> None:
        assert by_itself(self.VAIN, choice, DELAYS, gone=False, now=self.OVER) is event

    @pytest.mark.parametrize("choice", list(Choice))
    def test_leads_to_nothing_before_it_was_long_enough(self, choice: Choice) -> None:
        assert by_itself(self.VAIN, choice, DELAYS, gone=False, now=self.OVER - 1) is None

    @pytest.mark.parametrize("choice", list(Choice))
    def test_leads_to_nothing_if_hardly_anybody_looked(self, choice: Choice) -> None:
        job = replace(self.VAIN, looks=LOOKS_LEAST - 1)
        assert by_itself(job, choice, DELAYS, gone=False, now=self.OVER + 100 * HOUR) is None

    @pytest.mark.parametrize("job", [replace(VAIN, cancel_at=T), replace(VAIN, expires_at=OVER)])
    def test_sends_nothing_again_that_was_cancelled_or_is_past_its_time(self, job: Job) -> None:
        assert by_itself(job, Choice.RESEND, DELAYS, gone=False, now=self.OVER) is None
        assert by_itself(job, Choice.DEAD, DELAYS, gone=False, now=self.OVER) is Event.GIVE_UP

    @pytest.mark.parametrize("choice", [Choice.RESEND, Choice.DEAD])
    def test_does_not_end_before_the_due_time_unless_the_grant_is_gone(self, choice: Choice) -> None:
        job = replace(self.VAIN, due_at=self.OVER + HOUR)
        assert by_itself(job, choice, DELAYS, gone=False, now=self.OVER + HOUR - 1) is None
        assert by_itself(job, choice, DELAYS, gone=False, now=self.OVER + HOUR) is not None
        assert by_itself(job, choice, DELAYS, gone=True, now=self.OVER) is Event.GIVE_UP

    def test_gives_up_where_nobody_can_look_any_more(self) -> None:
        for choice, event in ((Choice.WAIT, None), (Choice.RESEND, Event.GIVE_UP), (Choice.DEAD, Event.GIVE_UP)):
            assert by_itself(JOB, choice, DELAYS, gone=True, now=self.OVER) is event
