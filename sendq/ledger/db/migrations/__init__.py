"""The history of the ledger's schema, as Alembic revisions that ship inside the package.

`sendq.ledger.db.migrate` runs them; there is no ``alembic.ini``. A revision that was released is never edited: it is
what some database out there has already been through. To change the schema, change `sendq.ledger.db.schema`, then write
down the difference as the next revision with ``python -m sendq.ledger.db.migrations.new "what changed"``.
"""
