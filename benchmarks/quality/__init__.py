"""Benchmarks of the scores of methods on the demo data."""
