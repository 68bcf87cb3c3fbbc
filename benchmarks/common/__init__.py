"""Timing, photographs and hosts that benchmarks share."""
