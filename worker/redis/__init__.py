"""Redis for one machine, and broker messages that this version does not understand."""
