"""Benchmarks of sharding, re-labelling and loading."""
