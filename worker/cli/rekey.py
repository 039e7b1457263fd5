"""``sendq rekey``: encrypt the ledger under the first encryption key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import load_settings, open_operators
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option

if TYPE_CHECKING:
    from sendq.operators import RekeyProgress
    from sendq.vault import Vault


@click.command()
@reason_option(required=False)
@by_option
@dry_run_option("Count the rows by the key they are encrypted with, and change nothing.")
@json_option
def rekey(reason: str | None, by: str, dry_run: bool, as_json: bool) -> None:
    """Re-encrypt everything in the ledger with the first of SENDQ_ENCRYPTION_KEYS, while workers keep running.

    Give every worker and web application the new key first. Safe to interrupt and to run again. It prints which old
    keys are no longer needed. Unencrypted rows are encrypted only with SENDQ_ACCEPT_UNENCRYPTED=true. Exit status 1 if
    something could not be re-encrypted.
    """
    vault = load_settings().vault
    if not vault:
        raise click.UsageError("there is no encryption key; set SENDQ_ENCRYPTION_KEYS (sendq keys new makes one)")
    with open_operators() as operators, progress_line() as show:
        run = operators.rekey(vault, by=by, reason=reason, dry_run=dry_run)
        for part in run:
            show(f"{counted(part.sealed, 'row')} {'would be ' * part.dry_run}re-encrypted")
        result = run.finish()
    if as_json:
        others = _others(result)
        tell_json(
            {
                "dry_run": dry_run,
                "key": result.key,
                "sealed": result.sealed,
                "rows": result.rows.get(result.key, 0),
                "unsealed": others.pop(None, 0),
            }
            | {"others": others, "unreadable": dict(result.unreadable), "altered": result.altered}
        )
    else:
        _tell(result, vault)
    for name, rows in result.unreadable.items():
        complain(f"{counted(rows, 'row')} not changed: key {name!r} is missing or wrong")
    if result.unencrypted:
        remedy = "if they are from before there was a key, set SENDQ_ACCEPT_UNENCRYPTED=true; if not, who wrote them?"
        complain(f"{counted(result.unencrypted, 'row')} not changed: not encrypted; {remedy}")
    if result.altered:
        complain(f"{counted(result.altered, 'row')} not changed: altered by something other than sendq, or damaged")
    if result.unreadable or result.unencrypted or result.altered:
        raise SystemExit(FAILED)


def _others(result: RekeyProgress) -> dict[str | None, int]:
    return {name: rows for name, rows in result.rows.items() if name != result.key}


def _tell(result: RekeyProgress, vault: Vault) -> None:
    done = "nothing was changed" if result.dry_run else f"{counted(result.sealed, 'row')} re-encrypted"
    tell(f"{done}; encrypted with {result.key}: {counted(result.rows.get(result.key, 0), 'row')}")
    others = _others(result)
    for name, rows in others.items():
        again = "" if result.dry_run or result.unencrypted else "; run it again"
        tell(f"{f'not encrypted yet{again}' if name is None else f'encrypted with {name}'}: {counted(rows, 'row')}")
    if not others:
        removable = f": {_removable(vault)}" if len(vault.names) > 1 else ""
        tell(f"no other key is needed{removable}")


def _removable(vault: Vault) -> str:
    return f"{', '.join(vault.names[1:])} can be removed once no web application encrypts with it"
