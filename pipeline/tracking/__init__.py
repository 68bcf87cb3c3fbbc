"""Track runs in MLflow: open, write, register, monitor the machine."""
