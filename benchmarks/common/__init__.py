"""Time, photographs and hosts that benchmarks share."""
