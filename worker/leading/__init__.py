"""Work of the leader alone: dispatch, rescue, reconcile, check grants, end batches, prune."""
