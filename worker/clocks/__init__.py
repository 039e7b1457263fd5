"""The ledger's clock, and the latest time ever seen."""
