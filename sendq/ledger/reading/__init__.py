"""Questions to the ledger that write nothing: one job, lists, dead letters, progress, the overview."""
