"""Train on a Ray cluster, from configuration to best checkpoint."""
