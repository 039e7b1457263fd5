"""Known holes in what is pinned: ``pip-audit`` over ``requirements/worker.txt``, as a part of ``./dev lint``.

It asks PyPI's advisory service. Where that cannot be reached, or does not know the packages (a mirror), one line on
stderr says so, and nothing fails: no finding is not the same as nothing found. A finding is exit status 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parent / "worker.txt"
LIMIT_S = 120


def findings(answer: dict[str, Any]) -> tuple[list[str], int]:
    """A line for each known hole in pip-audit's answer, and how many packages were looked up at all."""
    known = [one for one in answer["dependencies"] if "skip_reason" not in one]
    return [
        f"{one['name']} {one['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'no version yet'}"
        for one in known
        for hole in one["vulns"]
    ], len(known)


def main(command: Sequence[str]) -> int:
    """Run pip-audit; the exit status."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        found, asked = findings(json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        found, asked = [], 0
    if not asked:
        print("audit: no advisory service can be asked; known holes were not looked for", file=sys.stderr)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main([
        sys.executable, "-m", "pip_audit", "--requirement", str(PINNED), "--disable-pip", "--no-deps",
        "--format", "json", "--progress-spinner", "off", "--timeout", "10",
    ]))  # fmt: skip
