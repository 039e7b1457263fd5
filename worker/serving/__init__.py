"""Carrying out turns: the event loop, call slots, the worker's lease, and recording outcomes."""
