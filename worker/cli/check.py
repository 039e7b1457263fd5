"""``sendq check``: test everything that a worker needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.output import json_option, tell, tell_json

if TYPE_CHECKING:
    pass


@click.command()
@json_option
def check(as_json: bool) -> None:
    """Test everything a worker needs: settings, API keys, ledger, broker. Exit status 2 if something must be fixed."""
    import dataclasses

    from worker.doctor import check as checks

    items = checks.check()
    if as_json:
        tell_json([dataclasses.asdict(item) for item in items])
    else:
        for line in checks.lines(items):
            tell(line)
    raise SystemExit(checks.exit_code(items))
