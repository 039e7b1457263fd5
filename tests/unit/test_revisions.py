"""Which revisions there are, without asking Alembic, which costs every process that imports it."""

from __future__ import annotations

from alembic.script import ScriptDirectory

from sendq.ledger.db import migrate


class TestTheRevisions:
    def test_are_those_that_alembic_knows(self) -> None:
        theirs = ScriptDirectory.from_config(migrate.config())
        assert migrate.wanted() == theirs.get_current_head()
        assert list(migrate._known()) == [script.revision for script in theirs.walk_revisions()][::-1]
