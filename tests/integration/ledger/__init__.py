"""The ledger's queries on SQLite and PostgreSQL."""
