"""Real PostgreSQL, real Redis, real processes; the tests start all of them."""
