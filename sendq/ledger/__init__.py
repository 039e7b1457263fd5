"""Every query to the ledger: jobs from enqueue to their end, deliveries of outcomes, events, retention."""
