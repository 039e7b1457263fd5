"""Starting, guarding, probing and stopping processes; loops in their own threads."""
