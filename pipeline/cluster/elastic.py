"""Tell the workers of an elastic run (``--workers 1:4``) when more of them would fit.

Ray itself resizes a healthy group within a minute of a node's arrival, and tells the workers
nothing: all since the last checkpoint is lost, and an epoch that began with another number of
workers begins again. So Ray is kept from that (`KEEP_SIZE`), and the workers ask between two epochs
how many it would start now.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import ray
import ray.train
import ray.train.collective
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

KEEP_SIZE = math.inf
"""Seconds between Ray's looks at a healthy group; a failed one it starts with what is there."""


def more_workers_fit() -> bool:
    """Ask, on all ranks together, whether Ray would start the run with more workers now."""
    run = get_train_context().train_run_context
    size = ray.train.get_context().get_world_size()
    if size >= run.scaling_config.max_workers:
        return False
    fit = False
    if ray.train.get_context().get_world_rank() == 0:
        policy = ElasticScalingPolicy(run.scaling_config)
        policy.after_controller_start(run)  # repeats the run's request for its most workers
        fit = fitting(policy, _lasting_nodes()) > size
    return ray.train.collective.broadcast_from_rank_zero(fit)


def fitting(policy: ElasticScalingPolicy, nodes: Collection[str]) -> int:
    """Count the workers that Ray would start on what it has reserved for a run; 0 if unknown.

    Args:
        policy: Ray's, of the run.
        nodes: ids of those that count: what is reserved may be 20 seconds old.
    """
    reserved = policy._get_reserved_resources() or {}
    there = {node: resources for node, resources in reserved.items() if node in nodes}
    return policy._count_possible_workers(there)


def _lasting_nodes() -> set[str]:
    """List the ids of nodes that live and are not to be taken away."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return alive - ray._private.state.state.get_draining_nodes().keys()
