"""Plan which nodes an autoscaler has to start for a job's workers, and wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.cluster.placement import Node, capacity, describe, share
from sharding.errors import InputError, MachineError
from sharding.log import info

DEFAULT_MINUTES = 30.0
"""How long a job waits where the cluster may start the nodes that it needs."""


class Request(NamedTuple):
    """Workers that do not fit on the nodes that have joined, and what each needs."""

    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.workers} workers of {self.cpus} CPUs and {self.gpus} GPUs"

    def held_by(self, node: Node) -> int:
        """Count the workers that fit on one node."""
        cpus = node.cpus // self.cpus
        return min(cpus, node.gpus // self.gpus) if self.gpus else cpus


class NodeType(NamedTuple):
    """A kind of node that a cluster may start, and the most of it at a time."""

    name: str
    offer: Node
    most: int

    def __str__(self) -> str:
        return f"node type {self.name} ({self.offer.cpus} CPUs, {self.offer.gpus} GPUs)"


@dataclass(frozen=True)
class Growth:
    """What a cluster may start: kinds of nodes, and the most nodes of all kinds together."""

    types: tuple[NodeType, ...] = ()
    most: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Growth:
        """Read a cluster file; types that may not start, or name no CPUs, are left out.

        Args:
            config: as `ray up` leaves it on the head, with the resources of instance types.
        """
        limit, types = config.get("max_workers", 0), []
        for name, given in config.get("available_node_types", {}).items():
            offer, most = given.get("resources", {}), given.get("max_workers", limit)
            if name != config.get("head_node_type") and offer.get("CPU") and most:
                node = Node(int(offer["CPU"]), int(offer.get("GPU", 0)))
                types.append(NodeType(name, node, most))
        return cls(tuple(types), limit)

    def at_most(self, request: Request) -> int:
        """Count the workers that fit on the nodes of a cluster at its largest."""
        free, count = self.most, 0
        for each in sorted(self.types, key=lambda each: -request.held_by(each.offer)):
            taken = min(free, each.most)
            free, count = free - taken, count + taken * request.held_by(each.offer)
        return count


def may_lose_nodes(nodes: int, growth: Growth, address: str) -> bool:
    """Return whether the cluster has, or may have later, other nodes than the driver's own.

    Else Ray Train's watcher of nodes that are taken away is a process more for nothing.

    Args:
        nodes: that are there now; beside a head there may be none yet.
        growth: what may be started.
        address: that was joined; "" or "local" where Ray may have been started for this job.
    """
    return nodes > 1 or bool(growth.types) or address not in ("", "local")


class NotJoined(MachineError):
    """Nodes that may come have not within the time limit; the same command may succeed later."""


def missing(
    nodes: Sequence[Node], growth: Growth, workers: int | None, cpus_per_worker: int | None
) -> Request | None:
    """Compute what to ask an autoscaler for; None if the workers fit on the nodes that are there.

    Args:
        nodes: that have joined.
        growth: what the cluster may start; if there are GPUs in it, each worker gets one.
        workers: fewest of the job; None if any number will do.
        cpus_per_worker: None for a share of the smallest node that will do.

    Raises:
        InputError: the cluster can never hold them; says why, for each type of node.
    """
    count, has_gpus = workers or 1, any(node.gpus for node in nodes)
    gpus = int(has_gpus or any(each.offer.gpus for each in growth.types))
    cpus = cpus_per_worker or share(nodes, count)
    if cpus and has_gpus == bool(gpus) and capacity(nodes, cpus) >= count:
        return None
    request = Request(count, cpus_per_worker or _usual_cpus(growth, gpus), gpus)
    kinds = {each.offer for each in growth.types}
    others = sum(request.held_by(node) for node in nodes if node not in kinds)  # such as the head
    if growth.types and growth.at_most(request) + others < count:
        reasons = "; ".join(_reason(each, request) for each in growth.types)
        raise InputError(
            f"{request} never fit on this cluster of at most {growth.most} nodes: {reasons}",
            fix="lower --workers or --cpus-per-worker, or raise max_workers in the cluster file",
        )
    return request


def wait(
    request: Request,
    growth: Growth,
    nodes: Callable[[], Sequence[Node]],
    minutes: float,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the workers fit on the nodes that have joined; log a line a minute.

    Raises:
        NotJoined: they do not within that time.
    """
    for each in growth.types:
        if not request.held_by(each.offer):
            info(f"{_reason(each, request)} of {request}", "WARNING")
    seconds = 0
    while (fitting := sum(map(request.held_by, present := nodes()))) < request.workers:
        state = f"{fitting} of {request} fit on the nodes that have joined ({describe(present)})"
        if seconds >= 60 * minutes:
            raise NotJoined(
                f"after {minutes:g} minutes {state}",
                fix="see in `ray status` what could not be started, then repeat the command",
            )
        if seconds % 60 == 0:
            info(f"waiting for nodes: {state}; {seconds // 60} of {minutes:g} minutes")
        pause(5)
        seconds += 5


def _usual_cpus(growth: Growth, gpus: int) -> int:
    """Choose the CPUs of a worker: one GPU's share of its node, else two or what there is."""
    offers = [each.offer for each in growth.types if each.offer.gpus or not gpus]
    shares = [max(1, cpus // count) if gpus else min(2, cpus) for cpus, count in offers]
    return min(shares, default=1)


def _reason(kind: NodeType, request: Request) -> str:
    held = request.held_by(kind.offer)
    return f"{kind} holds {f'{held}, at most {kind.most} times' if held else 'none'}"
