"""Settle what a study's configurations leave open: paths, and precision and CPUs for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.cluster import placement
from pipeline.cluster.placement import Node
from pipeline.config import precision
from pipeline.config.train import TrainConfig
from pipeline.study import results
from pipeline.study.plan import Plan
from pipeline.study.results import Record
from pipeline.study.search import Curve
from pipeline.training import prepare


def settled(planned: Plan, output: str) -> Plan:
    """Settle the configurations of all runs of a plan.

    Args:
        planned: plan of a study.
        output: directory of the study, which may have results already.

    Raises:
        InputError: a run's configuration or result is damaged.
    """
    kept = [results.read(output, each.name) for each in planned.runs]
    configs = alike([each.config for each in planned.runs], kept)
    pairs = zip(planned.runs, configs, strict=True)
    return replace(planned, runs=tuple(replace(each, config=config) for each, config in pairs))


def alike(
    configs: Sequence[TrainConfig], kept: Sequence[Record | Curve | None]
) -> list[TrainConfig]:
    """Settle each precision auto as that of the first such training that has begun, if any.

    Args:
        configs: of trainings that are compared with each other.
        kept: what is known of each.

    Raises:
        InputError: the configuration of one that has begun is damaged.
    """
    located = [prepare.located(config) for config in configs]
    auto = [
        known
        for each, result in zip(located, kept, strict=True)
        if each.optimizer.precision == "auto"
        for known in (prepare.stored(each), _config_of(result))
        if known is not None and known.optimizer.precision != "auto"
    ]
    return [precision.settled(each, auto[0] if auto else None) for each in located]


def side_by_side(
    nodes: Sequence[Node],
    configs: Sequence[TrainConfig],
    kept: Sequence[Record | Curve | None],
    at_once: int,
) -> tuple[int, list[TrainConfig]]:
    """Choose how many trainings go on at a time, and settle the CPUs per worker of all.

    They have as many as the first that has begun, however few are left to do: the number of
    threads shows in a CPU's results.

    Args:
        nodes: of the cluster.
        configs: of trainings that are compared with each other.
        kept: what is known of each.
        at_once: most at a time.

    Raises:
        InputError: not even one fits, or the configuration of one that has begun is damaged.
    """
    begun = (
        known.cpus_per_worker
        for each, result in zip(configs, kept, strict=True)
        for known in (prepare.stored(each), _config_of(result))
        if known is not None and known.cpus_per_worker is not None
    )
    workers = max(each.worker_range[1] for each in configs)
    asked = max(each.cpus_per_worker or 0 for each in configs)
    cpus = asked or placement.kept_cpus(nodes, workers, next(begun, None))
    at_once, share = placement.side_by_side(nodes, at_once, workers, cpus)
    return at_once, [
        replace(each, cpus_per_worker=each.cpus_per_worker or share) for each in configs
    ]


def _config_of(result: Record | Curve | None) -> TrainConfig | None:
    return TrainConfig.from_dict(result.config) if result and result.config else None
