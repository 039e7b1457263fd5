"""What one process at a time does: dispatch, rescue, reconcile, check grants, end batches, prune."""
