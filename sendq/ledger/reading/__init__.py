"""Read-only queries: one job, lists page by page, dead letters, grants, batches, why a job waits, status."""
