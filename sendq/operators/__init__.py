"""What operators ask and do, for programs: `Operators`. The command line is one face of it.

`base` opens the ledger, `reading` has the questions; the acts stand in a file each.
"""

from __future__ import annotations

from sendq.operators.base import LedgerAccess


class Operators(LedgerAccess):
    """What operators ask and do, over one ledger.

    ``ledger`` is a database URL (``postgresql+psycopg://…``, ``sqlite:///sendq.db``) or an `Engine` of yours.
    """
