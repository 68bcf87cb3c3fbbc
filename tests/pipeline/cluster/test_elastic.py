"""An elastic run keeps its size while it is healthy, and learns when more workers would fit."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision

from pipeline.cluster import elastic, scaling
from pipeline.cluster.placement import Node

RESERVED = {"here": {"CPU": 5.0}, "new": {"CPU": 2.0}, "leaving": {"CPU": 4.0}}


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> ElasticScalingPolicy:
    """Ray's, for workers of two CPUs, without the actor that it asks."""
    for name in ("_maybe_send_resource_request", "after_controller_start"):
        monkeypatch.setattr(ElasticScalingPolicy, name, lambda *_: None)
    monkeypatch.setattr(ElasticScalingPolicy, "_get_reserved_resources", lambda policy: RESERVED)
    return ElasticScalingPolicy(
        ScalingConfig(
            num_workers=(1, 4),
            resources_per_worker={"CPU": 2},
            elastic_resize_monitor_interval_s=elastic.KEEP_SIZE,
        )
    )


def test_ray_leaves_a_healthy_group_alone_and_starts_a_failed_one_with_what_is_there(
    policy: ElasticScalingPolicy,
) -> None:
    group: Any = SimpleNamespace(start_time=0.0, num_workers=1)
    status: Any = None
    assert isinstance(policy.make_decision_for_running_worker_group(group, status), NoopDecision)
    decision: Any = policy.make_decision_for_non_running_worker_group()
    assert decision.num_workers == 4


@pytest.mark.parametrize(
    ("size", "free", "workers"),
    [
        (1, [Node(2, 0)], 2),
        (1, [Node(3, 0), Node(1, 0), Node(2, 1)], 3),
        (3, [Node(64, 0)], 4),  # Ray has reserved no more
        (2, [Node(0, 0)], 2),  # others use what Ray has reserved
    ],
)
def test_workers_are_counted_that_ray_would_start_and_that_have_room(
    policy: ElasticScalingPolicy, size: int, free: list[Node], workers: int
) -> None:
    assert elastic.fitting(policy, size, free) == workers


def test_what_cannot_be_asked_does_not_fit(
    policy: ElasticScalingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElasticScalingPolicy, "_get_reserved_resources", lambda policy: None)
    assert elastic.fitting(policy, 1, [Node(64, 0)]) == 0


@pytest.mark.parametrize(
    ("size", "rank", "waiting", "said"),
    [
        (2, 0, False, [True]),
        (2, 0, True, [False]),
        (3, 0, False, [False]),
        (2, 1, False, [False]),
        (4, 0, False, []),
        (4, 1, False, []),
    ],
)
def test_the_first_rank_asks_for_all(
    policy: ElasticScalingPolicy,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    rank: int,
    waiting: bool,
    said: list[bool],
) -> None:
    heard: list[bool] = []
    # With fewer than the run may have, since others used the nodes.
    started = dataclasses.replace(policy.scaling_config, num_workers=(1, 2))
    context = SimpleNamespace(get_world_size=lambda: size, get_world_rank=lambda: rank)
    run = SimpleNamespace(train_run_context=SimpleNamespace(scaling_config=started))
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(elastic, "get_train_context", lambda: run)
    monkeypatch.setattr(scaling, "others_wait", lambda: waiting)
    monkeypatch.setattr(scaling, "free", lambda: [Node(2, 0)] if size == 2 else [])
    monkeypatch.setattr(
        ray.train.collective,
        "broadcast_from_rank_zero",
        lambda fit: heard.append(fit) or (rank == 1 or fit),
    )
    assert elastic.more_workers_fit(4) == (size < 4 and (rank == 1 or said == [True]))
    assert heard == said
