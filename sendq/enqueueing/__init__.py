"""From a call of `SendQueue` to the rows that it stores: validation, planning, bulk calls."""
