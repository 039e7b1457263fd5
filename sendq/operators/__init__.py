"""What operators query and do, for programs: `Operators`. The command line is one interface to it.

`acting` has the acts (one file for each in `acts`), `reading` the queries, `base` the ledger.
"""

from __future__ import annotations

from sendq.operators.acting import Acting
from sendq.operators.acts.approve import DecisionProgress
from sendq.operators.acts.cancel import CancelBatchProgress, CancelResult
from sendq.operators.acts.cancel_jobs import CancelProgress
from sendq.operators.acts.change import ChangeProgress
from sendq.operators.acts.deliver_again import DeliverAgainProgress
from sendq.operators.acts.forget import ForgetProgress
from sendq.operators.acts.hold import HoldResult
from sendq.operators.acts.hold_grants import HoldProgress
from sendq.operators.acts.recover import RecoverProgress
from sendq.operators.acts.rekey import RekeyProgress
from sendq.operators.acts.release import ReleaseResult
from sendq.operators.acts.release_grants import ReleaseProgress
from sendq.operators.acts.resolve import ResolveProgress
from sendq.operators.acts.retry import RetryProgress
from sendq.operators.acts.run import Run
from sendq.operators.reading import Reading
from sendq.operators.refusals import Refusals
from sendq.operators.searching import Searching
from sendq.operators.suppressing import Suppressing

__all__ = [
    "CancelBatchProgress",
    "CancelProgress",
    "CancelResult",
    "ChangeProgress",
    "DecisionProgress",
    "DeliverAgainProgress",
    "ForgetProgress",
    "HoldProgress",
    "HoldResult",
    "Operators",
    "RecoverProgress",
    "RekeyProgress",
    "ReleaseProgress",
    "ReleaseResult",
    "ResolveProgress",
    "RetryProgress",
    "Run",
]


class Operators(Acting, Reading, Searching, Refusals, Suppressing):
    """What operators query and do, on one ledger.

    ``ledger`` is a database URL (``postgresql+psycopg://…``, ``sqlite:///sendq.db``) or an `Engine` of yours.

        operators = Operators("postgresql+psycopg://…")
        operators.hold(Scope.of_grant("grant-7"), until=tomorrow, by="anna", reason="their server moves")
        for part in operators.retry(DeadLetterFilter(rule="bad_request"), by="anna"):
            print(part.retried)
    """
