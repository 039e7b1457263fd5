"""What costs megabytes is not imported by those who do not need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"alembic": 10, "sqlalchemy.orm": 8, "cryptography.hazmat": 7}  # MB, about


class TestTheImports:
    @pytest.mark.parametrize("importing", ["worker.process", "sendq.queue"])
    def test_of_a_worker_and_of_an_application_are_no_more_than_they_need(self, importing: str) -> None:
        program = f"import sys, {importing}; print(*(name for name in {list(HEAVY)} if name in sys.modules))"
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert told.stdout.split() == []
