"""The error policy that a command uses, with the rows of a policy file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.output import UNUSABLE, complain

if TYPE_CHECKING:
    from tasks.policy.row import Policy


file_option = click.option(
    "--file",
    "policy_file",
    envvar="SENDQ_POLICY_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Your own rules, which come before the built-in ones (default: $SENDQ_POLICY_FILE).",
)


def policy_of(file: Path | None) -> Policy:
    """The policy, with the rows of this file if there is one; a file that cannot be used ends the command."""
    from tasks.policy.table import POLICY

    if file is None:
        return POLICY
    from tasks.policy.policy_file import PolicyFileError, policy_with

    try:
        return policy_with(text_of(file))
    except PolicyFileError as error:
        complain(str(error))
        raise SystemExit(UNUSABLE) from None


def text_of(file: Path) -> str:
    """The text of a policy file; a file that cannot be read ends the command."""
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        complain(f"the policy file cannot be read ({reason}); check its path")
        raise SystemExit(UNUSABLE) from None
