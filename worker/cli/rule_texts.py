"""What the rules of the error policy say, for commands that show a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.cli.output import complain

if TYPE_CHECKING:
    from tasks.policy.words import Said


def words_of_rules() -> dict[str, Said]:
    """The texts of every rule, those of the policy file among them; a file that cannot be used is reported."""
    from tasks.policy.policy_file import PolicyFileError, policy_with
    from tasks.policy.table import POLICY
    from tasks.policy.words import words_of
    from worker.cli.connection import load_settings

    file = load_settings().policy_file
    if file is None:
        return words_of(POLICY)
    try:
        return words_of(policy_with(file.read_text(encoding="utf-8")))
    except (PolicyFileError, OSError, UnicodeDecodeError):
        complain("SENDQ_POLICY_FILE cannot be used, so its rules are not described here; see: sendq policy")
        return words_of(POLICY)


def unknown_rule(rule: str) -> str | None:
    """What to say of a rule that does not exist; None: it does."""
    import difflib

    words = words_of_rules()
    if rule in words:
        return None
    alike = difflib.get_close_matches(rule, words, 1)
    return f"there is no rule {rule!r}; " + (f"did you mean {alike[0]}? " if alike else "") + "sendq policy lists them"
