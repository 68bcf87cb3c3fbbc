"""Scores of methods on the demo data, over several seeds."""
