"""Benchmarks of losses, head, step, evaluator and scaling."""
