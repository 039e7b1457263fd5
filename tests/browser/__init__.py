"""The console and Flower in a real browser (`./dev browser`)."""
