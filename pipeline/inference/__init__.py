"""Use a trained network: predict, export, serve, draw class activation maps."""
