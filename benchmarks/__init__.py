"""Benchmarks. Every number in the documentation comes from one of these programs."""
