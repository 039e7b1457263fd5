"""Programs that measure. Every number that the documentation states comes out of one of these."""
