"""The ledger's URL for a command: it fails soon, and never makes a SQLite file."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url

from sendq.errors import LedgerUnavailable
from settings import Settings

CONNECT_S = 10  # a server that does not answer should not keep a person waiting for minutes


def ledger_address(settings: Settings) -> str:
    """The configured ledger's URL, with a timeout for connecting.

    Raises `LedgerUnavailable` if it names a SQLite file that does not exist: to open it would make an empty one.
    """
    url = make_url(settings.ledger_url.get_secret_value())
    if url.get_backend_name() == "sqlite":
        if not Path(url.database or "").exists():
            raise LedgerUnavailable(
                f"the ledger's SQLite file {url.database} does not exist; run: sendq migrate (or correct DATABASE_URL, "
                "which must be set wherever sendq is called)"
            )
    elif "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(CONNECT_S)})
    return url.render_as_string(hide_password=False)
