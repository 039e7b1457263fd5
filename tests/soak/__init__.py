"""Soak: hours of ordinary load with every documented fault and kills; nothing may be lost, sent twice, or grow."""
