"""Errors that cross processes: the same one comes out."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest

from sendq import errors
from sendq.errors import (
    Altered,
    InvalidArgument,
    InvalidJob,
    KeyConflict,
    LaneFull,
    LedgerUnavailable,
    NoRight,
    NotEncrypted,
    NotFound,
    NotWaiting,
    Problem,
    Pruned,
    Retryable,
    SchemaMismatch,
    SendqError,
    SuppressedRecipients,
    SuppressionListFailed,
    Unreadable,
)
from sendq.outcomes import BadOutcome
from settings.errors import SettingsError
from tasks.policy.policy_file import Finding, PolicyFileError

PROBLEM = Problem("to[0].email", "is not an email address", "correct it")

ERRORS = [
    SendqError("something"),
    InvalidJob([PROBLEM, PROBLEM]),
    SuppressedRecipients([PROBLEM]),
    SuppressionListFailed("suppressed: did not answer within 5 s; nothing was stored"),
    InvalidArgument([PROBLEM]),
    LaneFull("g1", waiting=7, cap=7, eta=datetime(2026, 7, 1, tzinfo=UTC)),
    LaneFull("g1", waiting=7, cap=7, eta=None),
    KeyConflict("invoice-42", "0197a1b2-0000-7000-8000-000000000001"),
    NotFound("there is no such job"),
    Pruned("job", "0197a1b2-0000-7000-8000-000000000001", "2026-07-01"),
    NotWaiting("job", "0197a1b2-0000-7000-8000-000000000001", "in_doubt", "it may have been sent"),
    Retryable("the database aborted the transaction"),
    Unreadable("2026-11", missing=True),
    Altered("2026-11"),
    NotEncrypted(),
    SchemaMismatch("the ledger's schema is older"),
    LedgerUnavailable("the ledger cannot be reached"),
    NoRight("the database role has no right to do this"),
    BadOutcome("the signature is wrong"),
    SettingsError([PROBLEM, PROBLEM]),
    PolicyFileError([Finding(3, "error", "no such row")]),
]


class TestAnError:
    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_is_the_same_in_another_process(self, error: Exception) -> None:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(error, protocol))
            assert type(again) is type(error)
            assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert str(copy.copy(error)) == str(error)

    def test_of_every_kind_is_tried_here(self) -> None:
        kinds = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, SendqError)}
        assert kinds <= {type(error) for error in ERRORS}
