"""Evaluate a checkpoint: scores, average precision, mAP per class group, reports."""
