"""The database: tables, migrations, connections, the caller's transaction, many rows in one statement.

Queries are written in SQLAlchemy Core, with the tables of `schema`. Raw SQL (``text("…")``) is for three cases:

- Core cannot express it, or only in a form that is harder to read: NOTIFY, SET, PRAGMA, system catalogs, arrays
  unnested into rows, a recursive walk from index entry to index entry.
- The planner chooses the index by the exact text: a literal where SQLite must recognise a partial index, a CASE that
  keeps PostgreSQL from using a wrong one. A comment says so.
- Every process runs it in every round, with or without work, so that building it each time would be most of its cost.

A raw statement is a constant of its module, or is built once for each dialect by a cached function. It binds every
value that comes from outside. It runs on both databases, or only after a check of the dialect's name.
"""
