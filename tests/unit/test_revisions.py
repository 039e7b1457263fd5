"""Which revisions there are, without asking Alembic, which costs every process that imports it."""

from __future__ import annotations

import subprocess
import sys

from alembic.script import ScriptDirectory

from sendq.ledger import migrate


class TestTheRevisions:
    def test_are_those_that_alembic_knows(self) -> None:
        theirs = ScriptDirectory.from_config(migrate.config())
        assert migrate.wanted() == theirs.get_current_head()
        assert list(migrate._known()) == [script.revision for script in theirs.walk_revisions()][::-1]

    def test_are_known_without_alembic(self) -> None:
        program = "import sys, worker.process as p; assert p.migrate.wanted(); print('alembic' in sys.modules)"
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert told.stdout.strip() == "False"
