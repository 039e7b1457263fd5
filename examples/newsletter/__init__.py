"""A newsletter on Flask: mail merge from pasted rows, a page with its progress, and cancel."""
