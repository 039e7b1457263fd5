"""Work that only the leader does: dispatch, rescue, reconcile, check grants, end batches, prune."""
