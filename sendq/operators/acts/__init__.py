"""The acts of operators, one in each file: its progress, and its sequence of transactions."""
