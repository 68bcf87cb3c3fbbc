"""Shards in, trained CAM + BoostLU networks and per-group mAP out.

Shape suffixes used throughout: B batch, C image channels, D feature channels, K classes,
H W space, N samples, E annotated entries.
"""
