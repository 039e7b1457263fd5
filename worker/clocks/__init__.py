"""The ledger's clock, and the highest time that was ever seen."""
