"""Connections to Redis, PostgreSQL, PgBouncer and the API, and the servers that the tests start."""
