"""The database: tables, migrations, connections, the caller's transaction, many rows in one statement."""
