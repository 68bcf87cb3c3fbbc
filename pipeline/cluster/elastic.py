"""Tell the workers of an elastic run (``--workers 1:4``) when more of them would fit.

Ray itself resizes a healthy group within a minute of a node's arrival, and tells the workers
nothing: all since the last checkpoint is lost, and an epoch that began with another number of
workers begins again. So Ray is kept from that (`KEEP_SIZE`), and the workers ask between two epochs
how many it would start now.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import ray.train
import ray.train.collective
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from pipeline.cluster import scaling
from pipeline.cluster.placement import Node, room

KEEP_SIZE = math.inf
"""Seconds between Ray's looks at a healthy group; a failed one it starts with what is there."""


def more_workers_fit(most: int) -> bool:
    """Ask, on all ranks together, whether Ray would start the run with more workers now.

    While others wait for room it would not: they would get that of the workers that ended.

    Args:
        most: workers of the run; Ray was told fewer where others used the nodes.
    """
    run = get_train_context().train_run_context
    size = ray.train.get_context().get_world_size()
    if size >= most:
        return False
    fit = False
    if ray.train.get_context().get_world_rank() == 0:
        bounds = run.scaling_config.min_workers, most
        config = dataclasses.replace(run.scaling_config, num_workers=bounds)
        policy = ElasticScalingPolicy(config)
        policy.after_controller_start(run)  # repeats the run's request for its most workers
        fit = fitting(policy, size, scaling.free()) > size and not scaling.others_wait()
    return ray.train.collective.broadcast_from_rank_zero(fit)


def fitting(policy: ElasticScalingPolicy, size: int, free: Sequence[Node]) -> int:
    """Count the workers that Ray would start and that have room; 0 if unknown.

    Args:
        policy: Ray's, of the run; what it has reserved may be 20 seconds old, and used by others.
        size: workers that run now.
        free: of each node.
    """
    resources = policy.scaling_config._resources_per_worker_not_none
    cpus, gpus = int(resources["CPU"]), int(resources.get("GPU", 0))
    reserved = policy._get_reserved_resources() or {}
    return min(policy._count_possible_workers(reserved), size + room(free, cpus, gpus))
