"""What a change does to a job that waits: only an approval lets one begin that needs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND, Micros, moment
from sendq.ledger import events
from sendq.rules.rule_ids import NEEDS_APPROVAL, NOT_APPROVED
from sendq.rules.states import State
from sendq.rules.waiting_job import (
    APPROVAL_TIME,
    HELD,
    PUT_OFF,
    Change,
    ChangeKind,
    after_change,
    after_replacement,
    is_held,
    refusal,
    unapproved,
    waits_for_approval,
)

NOW = 1_780_000_000 * SECOND


@dataclass(frozen=True, slots=True)
class Job:
    """The columns of a job that a change reads."""

    operation: str = "send"
    state: str = "queued"
    priority: int = 1
    due_at: Micros = NOW
    next_at: Micros = NOW
    resume_at: Micros | None = None
    expires_at: Micros | None = None
    approve_by: Micros | None = None
    approved_at: Micros | None = None
    doubt_at: Micros | None = None
    rule: str | None = None
    time_window: str | None = None
    content_version: int = 0


def gated(**given: Any) -> Job:
    return replace(Job(), **unapproved(NOW, None, None) | given)


changes = st.builds(
    Change,
    st.sampled_from(list(ChangeKind)),
    due_at=st.integers(NOW - 60 * SECOND, NOW + 60 * SECOND),
    expires_at=st.one_of(st.none(), st.integers(NOW, NOW + 60 * SECOND)),
    keeps_expiry=st.booleans(),
    priority=st.integers(0, 2),
    at=st.just(NOW),
)


class TestAJobThatNeedsApproval:
    @given(st.lists(changes, max_size=12))
    def test_may_begin_after_its_approval_and_the_release_of_its_hold_and_never_before(
        self, some: list[Change]
    ) -> None:
        job, approved, held = gated(), False, False
        for change in some:
            if refusal(job, change) is not None or change.kind is ChangeKind.REJECT:
                continue
            job = replace(job, **after_change(job, change))
            approved = approved or change.kind is ChangeKind.APPROVE
            held = (held or change.kind is ChangeKind.HOLD) and change.kind is not ChangeKind.RELEASE
            assert (waits_for_approval(job), is_held(job)) == (not approved, held)
            assert (job.next_at < HELD) == (approved and not held)
            assert (job.resume_at is None) == (job.next_at < HELD)
            assert (job.rule == NEEDS_APPROVAL) == (not approved)

    @given(st.lists(changes, max_size=6))
    def test_needs_it_again_once_its_content_is_another(self, some: list[Change]) -> None:
        job = gated()
        for change in some:
            if refusal(job, change) is None and change.kind is not ChangeKind.REJECT:
                job = replace(job, **after_change(job, change))
        after = replace(job, **after_replacement(job, now=NOW))
        assert waits_for_approval(after)
        assert (after.next_at >= HELD, is_held(after)) == (True, is_held(job))

    @pytest.mark.parametrize("rule", sorted(PUT_OFF))
    @pytest.mark.parametrize("held", [False, True])
    def test_needs_it_again_and_no_longer_waits_for_a_tag_or_window_that_may_be_free_sooner(
        self, rule: str, held: bool
    ) -> None:
        later = NOW + 3600 * SECOND
        times = {"next_at": HELD, "resume_at": later} if held else {"next_at": later, "resume_at": None}
        job = gated(approved_at=NOW, rule=rule, **times)
        after = replace(job, **after_replacement(job, now=NOW))
        assert (after.resume_at, after.rule, is_held(after)) == (job.due_at, NEEDS_APPROVAL, held)

    def test_may_wait_until_it_expires_or_for_three_days(self) -> None:
        assert unapproved(NOW, NOW + SECOND, None)["approve_by"] == NOW + SECOND
        assert unapproved(NOW, None, None)["approve_by"] == NOW + APPROVAL_TIME

    def test_that_never_expires_has_its_three_days_once_its_window_is_open(self) -> None:
        opens_at = NOW - NOW % (86_400 * SECOND) + 5 * 86_400 * SECOND
        day = f"{moment(opens_at):%a}".lower()
        window = f"00:00-24:00 {day} UTC"
        job = gated(**unapproved(NOW, None, window), time_window=window)
        assert job.approve_by == opens_at + APPROVAL_TIME
        assert after_change(job, Change(ChangeKind.RESCHEDULE, due_at=NOW + 1))["approve_by"] == job.approve_by
        assert after_replacement(replace(job, approved_at=NOW), now=NOW)["approve_by"] == job.approve_by
        assert unapproved(NOW, NOW + SECOND, window)["approve_by"] == NOW + SECOND

    @pytest.mark.parametrize(
        ("job", "reason"),
        [
            (Job(), "it needs no approval"),
            (gated(approved_at=NOW), "it is approved already"),
            (gated(state="dead", rule=NOT_APPROVED), "it was not approved in time"),
            (gated(state="cancelled"), "it has ended"),
            (gated(state="sending", approved_at=NOW), "its call is being made"),
            (gated(doubt_at=NOW, approved_at=NOW), "it may have been sent"),
        ],
    )
    def test_is_decided_about_only_while_it_waits_for_that(self, job: Job, reason: str) -> None:
        for kind in (ChangeKind.APPROVE, ChangeKind.REJECT):
            assert (refusal(job, Change(kind, at=NOW)) or "").startswith(reason)
        late = Change(ChangeKind.APPROVE, at=NOW + APPROVAL_TIME)
        assert refusal(gated(), late) == "it was not approved in time"
        assert refusal(gated(), Change(ChangeKind.APPROVE, at=NOW + APPROVAL_TIME - 1)) is None

    def test_is_decided_about_only_with_the_content_that_was_read(self) -> None:
        for kind in (ChangeKind.APPROVE, ChangeKind.REJECT):
            for content, reason in ((1, "its content is another one: version 2, not 1"), (2, None), (None, None)):
                assert refusal(gated(content_version=2), Change(kind, at=NOW, content=content)) == reason

    def test_is_cancelled_by_a_rejection(self) -> None:
        assert after_change(gated(), Change(ChangeKind.REJECT))["state"] == State.CANCELLED


class TestAnyOtherJob:
    def test_is_not_touched_by_what_is_about_approval(self) -> None:
        assert after_change(Job(), Change(ChangeKind.APPROVE, at=NOW)) == {}
        assert after_replacement(Job(), now=NOW) == {}
        assert "approve_by" not in after_change(Job(), Change(ChangeKind.RESCHEDULE, due_at=NOW))


def test_every_change_is_a_kind_of_event() -> None:
    assert {kind.value for kind in ChangeKind} <= set(events.KINDS)
