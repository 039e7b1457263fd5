"""The error policy that a worker uses: the built-in rows, and those of ``SENDQ_POLICY_FILE`` in front."""

from __future__ import annotations

from sendq.errors import Problem
from settings import Settings, SettingsError
from tasks.policy.row import Policy
from tasks.policy.table import POLICY


def policy_of(settings: Settings) -> Policy:
    """The error policy, with the rows of ``SENDQ_POLICY_FILE`` in front."""
    if settings.policy_file is None:
        return POLICY

    from tasks.policy.policy_file import PolicyFileError, policy_with

    field, remedy = "SENDQ_POLICY_FILE", "correct it; `sendq policy check FILE` shows every finding with its line"
    try:
        return policy_with(settings.policy_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([Problem(field, f"cannot be read ({type(error).__name__})", remedy)]) from None
    except PolicyFileError as error:
        raise SettingsError([Problem(field, f"names a file that is no policy: {error}", remedy)]) from None
