"""What operators do, an act in each file: its progress, and its transactions one after another."""
