"""Parse command lines and run the jobs: `openimages-boostlu`, `python -m pipeline`, ``jobs/``."""
