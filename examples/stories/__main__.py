"""``./dev stories``: plays the stories, or those that are named, and writes docs/stories."""

from __future__ import annotations

import sys
from importlib import import_module

from examples.stories.play import played
from settings.environ import ROOT

NAMES = ("throttled_account", "thousand_throttled", "signing_in_again", "dead_letter", "bounced_mail", "two_widths")

if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        page = played(import_module(f"examples.stories.{name}"))
        (ROOT / "docs" / "stories" / f"{name}.md").write_text(page, encoding="utf-8")
        sys.stdout.write(f"docs/stories/{name}.md\n")
