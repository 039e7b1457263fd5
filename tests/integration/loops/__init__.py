"""One part of a worker at a time, on a real ledger: dispatcher, recorder, rescuer, engine."""
