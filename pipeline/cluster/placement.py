"""Compute how many workers fit on a cluster, each on one node, and how many CPUs each may have.

Sums over the cluster are not enough: a worker of 4 CPUs fits on neither of two nodes with 2, and
Ray would wait for ever for one that is large enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sharding.errors import InputError
from sharding.log import count, info


class Node(NamedTuple):
    """What one node offers, or has free."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Node:
        """Count Ray's resources of a node; a part of a CPU or a GPU is none."""
        return cls(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def describe(nodes: Sequence[Node]) -> str:
    """Say in words what the nodes offer together."""
    cpus, gpus = (sum(counts) for counts in zip(*nodes, strict=True))
    gpus_in_words = count(gpus, "GPU") if gpus else "no GPU"
    return f"{count(len(nodes), 'node')}, {count(cpus, 'CPU')}, {gpus_in_words}"


def capacity(nodes: Sequence[Node], cpus: int) -> int:
    """Count the workers that fit with so many CPUs each, and one GPU each if there are any."""
    return room(nodes, cpus, int(any(node.gpus for node in nodes)))


def room(nodes: Sequence[Node], cpus: int, gpus: int) -> int:
    """Count the workers that fit with so many CPUs and GPUs (or none) each."""
    return sum(
        min(node.cpus // cpus, node.gpus // gpus) if gpus else node.cpus // cpus for node in nodes
    )


def fitting(free: Sequence[Node], fewest: int, most: int, cpus: int, gpus: int) -> int:
    """Choose how many workers to start on what is free: all that fit, 0 if ``fewest`` do not.

    Args:
        free: of each node. Where others have taken all GPUs, no worker fits.
        fewest, most: workers of the job.
        cpus, gpus: of each.
    """
    count = min(most, room(free, cpus, gpus))
    return count if count >= fewest else 0


def share(nodes: Sequence[Node], workers: int) -> int:
    """Compute the most CPUs that each of so many workers can have; 0 if they do not fit."""
    for cpus in range(max((node.cpus for node in nodes), default=0), 0, -1):
        if capacity(nodes, cpus) >= workers:
            return cpus
    return 0


def kept_cpus(nodes: Sequence[Node], workers: int, begun: int | None) -> int | None:
    """Return the CPUs per worker that a training began with; None if there is nothing to keep.

    On CPU the number of threads shows in the last bits of a sum, and these in every weight. GPUs
    compute the same with any.

    Args:
        nodes: that have joined.
        workers: that have to fit, or as many of them as do with a CPU each (the task that validates
            beside a training counts as one); where they do not, that is logged, and None returned.
        begun: None of a training that has not begun.
    """
    if begun is None or any(node.gpus for node in nodes):
        return None
    workers = min(workers, capacity(nodes, 1))
    if capacity(nodes, begun) < workers:
        had = f"{workers:,} times {count(begun, 'CPU')}, as it began with"
        info(f"no room for {had}: with others it rounds otherwise from here on", "WARNING")
        return None
    return begun


def that_fit(nodes: Sequence[Node], most: int, cpus: int | None) -> tuple[int, int | None]:
    """Choose (workers, CPUs per worker) of tasks that any number of workers does.

    Args:
        nodes: that are there now; some may have been lost.
        most: workers, of which as many are taken as fit, but at least one.
        cpus: of each; None for an even share, which is also taken where not one worker fits with
            so many. On CPU that is logged.
    """
    if cpus and not capacity(nodes, cpus):
        cpus = kept_cpus(nodes, 1, cpus)
    return max(1, min(most, capacity(nodes, cpus or 1))), cpus


def default_workers(nodes: Sequence[Node]) -> int:
    """Count one worker per GPU that has a CPU, else one per two CPUs, and at least one."""
    if any(node.gpus for node in nodes):
        return max(1, capacity(nodes, 1))
    return max(1, sum(max(1, node.cpus // 2) for node in nodes if node.cpus))


def shares(
    nodes: Sequence[Node], workers: int | None, cpus_per_worker: int | None = None
) -> tuple[int, float, int]:
    """Choose (workers, GPUs per worker, CPUs per worker).

    Args:
        nodes: that have joined.
        workers: None for `default_workers`, or for all that fit with CPUs that are given.
        cpus_per_worker: None for an even share.

    Raises:
        InputError: that many do not fit.
    """
    if cpus_per_worker:
        workers = workers or max(1, capacity(nodes, cpus_per_worker))
    workers = workers or default_workers(nodes)
    cpus = cpus_per_worker or share(nodes, workers)
    if not cpus or capacity(nodes, cpus) < workers:
        of = f" of {count(cpus, 'CPU')}" if cpus_per_worker else ""
        fix = f"lower --workers{' or --cpus-per-worker' if of else ''}"
        raise _too_many(nodes, f"no room for {count(workers, 'worker')}{of}", fix)
    return workers, 1.0 if any(node.gpus for node in nodes) else 0.0, cpus


def place(
    nodes: Sequence[Node], fewest: int, most: int, cpus_per_worker: int | None
) -> tuple[bool, int]:
    """Choose (use GPUs, CPUs per worker) so that ``most`` workers fit, or as many as possible.

    Raises:
        InputError: not even ``fewest`` fit.
    """
    fitting = min(most, max(fewest, capacity(nodes, 1)))
    cpus = cpus_per_worker or share(nodes, fitting)
    if not cpus or capacity(nodes, cpus) < fewest:
        raise _too_many(
            nodes,
            f"no room for {count(fewest, 'worker')} of {count(cpus or 1, 'CPU')}",
            "lower --workers or --cpus-per-worker",
        )
    return any(node.gpus for node in nodes), cpus


def _too_many(nodes: Sequence[Node], problem: str, fix: str) -> InputError:
    offers = ", ".join(f"{count(node.cpus, 'CPU')} {count(node.gpus, 'GPU')}" for node in nodes)
    return InputError(
        f"{problem} on the nodes that have joined ({offers or 'none'})",
        fix=f"{fix}, or wait until all nodes have joined (`ray status`)",
    )


def side_by_side(
    nodes: Sequence[Node], jobs: int | None, workers: int, cpus_per_worker: int | None
) -> tuple[int, int]:
    """Choose (jobs at a time, CPUs per worker), for jobs of so many workers each.

    Args:
        nodes: of the cluster.
        jobs: most at a time; None for as many as fit.
        workers: of each job.
        cpus_per_worker: None for an even share.

    Raises:
        InputError: not even one job fits.
    """
    fitting = capacity(nodes, cpus_per_worker or 1) // workers
    if not fitting:
        raise _too_many(nodes, f"no room for {count(workers, 'worker')}", "lower --workers")
    jobs = min(jobs or fitting, fitting)
    return jobs, cpus_per_worker or share(nodes, jobs * workers)
