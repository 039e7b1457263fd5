"""Chaos: kills, freezes, disconnects and starves real processes; afterwards the ledger must add up."""
