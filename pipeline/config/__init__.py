"""Configure trainings, evaluations, predictions and audits; free of torch."""
