"""Kill trainings and compare what they end in."""
