"""The history of the ledger's schema, as Alembic revisions that ship inside the package.

`sendq.ledger.db.migrate` runs them; there is no ``alembic.ini``. A released revision is never edited, because databases
have already run it. To change the schema, change `sendq.ledger.db.schema`, then generate the next revision from the
difference with ``python -m sendq.ledger.db.migrations.new "what changed"``.
"""
