"""``sendq settings``: list the settings."""

from __future__ import annotations

import click

from worker.cli.output import json_option, tell_json, tell_table


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """List every setting: its environment variables, its default and its meaning."""
    from settings import Settings

    rows = Settings.describe()
    if as_json:
        tell_json([row._asdict() for row in rows])
        return
    tell_table(
        ("variable", "default", "meaning"),
        [
            (
                [*row.env[:1], *(f"or {name}" for name in row.env[1:])],
                f"{row.default} {row.unit}".strip() if row.default else "",
                row.meaning,
            )
            for row in rows
        ],
        folds=True,
    )
