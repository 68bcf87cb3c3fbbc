"""Audit labels: collect likely missing labels, judge, review and export them."""
