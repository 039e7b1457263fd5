"""Flower in a real browser (`./dev browser`)."""
