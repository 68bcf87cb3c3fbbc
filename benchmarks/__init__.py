"""Measure every performance claim of the documentation as a ratio in one run."""
