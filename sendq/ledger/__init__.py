"""Every query to the ledger: jobs from enqueue to their end, and what is told of them."""
