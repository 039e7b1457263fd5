"""Values that pass between the ledger, a turn and the recorder. Pure: no SQL, no I/O."""
