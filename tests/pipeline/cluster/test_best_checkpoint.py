"""A run that stopped says where what it had learnt is."""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.cluster import checkpoints


def test_the_last_good_checkpoint_is_named_with_the_runs_scheme() -> None:
    result = SimpleNamespace(checkpoint=SimpleNamespace(path="bucket/runs/one/checkpoint_7"))
    told = checkpoints.last_good(result, "s3://bucket/runs/one")
    assert told == "the last good checkpoint is s3://bucket/runs/one/checkpoint_7"


def test_a_run_without_a_checkpoint_says_so() -> None:
    told = checkpoints.last_good(SimpleNamespace(checkpoint=None), "runs/one")
    assert told == "there is no checkpoint yet in runs/one"
