"""What costs megabytes is not imported by those who do not need it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"alembic": 10, "sqlalchemy.orm": 8, "cryptography.hazmat": 7}  # MB, about


class TestTheImports:
    def test_of_an_application_and_of_a_worker_are_no_more_than_they_need(self) -> None:
        # One process for both, the lighter first: to import a worker takes longer than any other test here.
        lines = ["import sys"]
        for name in ("sendq.queue", "worker.process"):
            lines += [f"import {name}", f"print({name!r}, *(each for each in {list(HEAVY)} if each in sys.modules))"]
        program = "\n".join(lines)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["sendq.queue", "worker.process"]
