"""Starting, guarding, probing and stopping processes; loops in threads of their own."""
