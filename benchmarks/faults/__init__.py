"""Benchmarks of recovery: kill trainings and compare their final weights."""
