"""Tests of what runs the jobs elsewhere: a container, Kubernetes, Slurm, SkyPilot."""
