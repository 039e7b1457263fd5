"""Whole systems: real workers, a broker, the simulated API on a socket."""
