"""``sendq rekey``: seal the ledger under the first encryption key."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine, load_settings
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from sendq.vault import Vault


@click.command()
@reason_option(required=False)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what is sealed with which key, and change nothing.")
@json_option
def rekey(reason: str | None, by: str, dry_run: bool, as_json: bool) -> None:
    """Seal everything that the ledger keeps anew, under the first of SENDQ_ENCRYPTION_KEYS, while the workers go on.

    Run it when every worker and web application has the new key first. What was interrupted goes on when it is run
    again. Afterwards an old key can be removed if nothing needs it. Exit status 1 if something could not be opened.
    """
    vault = load_settings().vault
    if not vault:
        raise click.UsageError("no key is given; set SENDQ_ENCRYPTION_KEYS (sendq keys new makes one)")
    with ledger_engine() as engine:
        first = vault.seals_with
        if dry_run:
            sealed, unreadable = 0, Counter[str]()
        else:
            _note(engine, first, by=by, reason=reason)
            sealed, unreadable = _all(engine, vault)
        still = _still(engine)
    others = {name: rows for name, rows in still.items() if name != first}
    if as_json:
        tell_json(
            {
                "dry_run": dry_run,
                "key": first,
                "sealed": sealed,
                "rows": still.get(first, 0),
                "unsealed": others.pop(None, 0),
            }
            | {"others": others, "unreadable": dict(unreadable)}
        )
    else:
        done = "nothing was changed" if dry_run else f"{sealed:,} rows sealed anew"
        tell(f"{done}; {first} seals {still.get(first, 0):,} now")
        for name, rows in others.items():
            again = "" if dry_run else "; run it again"
            tell(f"{rows:,} rows are not sealed yet{again}" if name is None else f"{rows:,} rows need {name}")
        if not others:
            tell("no other key is needed any more" + (": " + _removable(vault) if len(vault.names) > 1 else ""))
    for name, rows in unreadable.items():
        complain(f"{rows:,} rows are sealed with {name!r}, which is not given, or not rightly; they stay as they are")
    if unreadable:
        raise SystemExit(FAILED)


def _note(engine: Engine, key: str | None, *, by: str, reason: str | None) -> None:
    from sendq import clock
    from sendq.ledger import events
    from sendq.ledger.db.engine import writing

    words = f"under {key}" + (f": {reason}" if reason else "")
    with writing(engine) as connection:
        events.append(connection, "rekey", at=clock.now(), by=by, reason=words)


def _removable(vault: Vault) -> str:
    return f"{', '.join(vault.names[1:])} can be removed, once no web application seals with it"


def _all(engine: Engine, vault: Vault) -> tuple[int, Counter[str]]:
    from sendq.ledger.db.engine import writing
    from sendq.ledger.operators.rekey import KEPT, step

    sealed, unreadable = 0, Counter[str]()
    for kept in KEPT:
        after = None
        while True:
            with writing(engine) as connection:
                done = step(connection, kept, vault, after=after)
            sealed += done.sealed
            unreadable += done.unreadable
            after = done.after
            if after is None:
                break
    return sealed, unreadable


def _still(engine: Engine) -> dict[str | None, int]:
    from sendq.ledger.db.engine import reading
    from sendq.ledger.operators.rekey import still_with

    with reading(engine) as connection:
        return still_with(connection)
