"""Chaos: real processes are killed, frozen, cut off and starved, and afterwards the ledger must add up."""
