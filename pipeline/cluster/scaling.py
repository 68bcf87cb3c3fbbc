"""Plan which nodes an autoscaler has to start for a job's workers, and wait for them.

Workers that fit on the nodes may have to wait all the same, until others who use the cluster have
ended. Ray Train would ask a minute at a time for as many as the nodes hold, and say nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.cluster.placement import Node, capacity, describe, fitting, room, share
from sharding.errors import InputError, MachineError
from sharding.log import info

DEFAULT_MINUTES = 30.0
"""How long a job waits where the cluster may start the nodes that it needs, and for what others
use."""
RAYS_MINUTES = 3
"""How often Ray Train tries to start workers, a minute each, before `Room` is asked again."""
_LOOKS = 5  # a second each, at what is free: what has just ended is freed in a moment


class Request(NamedTuple):
    """Workers that do not fit on the nodes that have joined, and what each needs."""

    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.workers} workers of {self.cpus} CPUs and {self.gpus} GPUs"

    def held_by(self, node: Node) -> int:
        """Count the workers that fit on one node."""
        return room([node], self.cpus, self.gpus)


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


class NotFree(MachineError):
    """Others have used the nodes until the time limit; the same command may succeed later."""


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


@contextlib.contextmanager
def reserving(request: Request) -> Iterator[Callable[[], bool]]:
    """Ask Ray for the resources of workers within the block, which an autoscaler obeys.

    Yields:
        Tells whether they are held; they are given back with the block, or this process.
    """
    import ray.util

    bundle = {"CPU": request.cpus, **({"GPU": request.gpus} if request.gpus else {})}
    group = ray.util.placement_group([bundle] * request.workers, strategy="PACK")
    try:
        yield lambda: bool(group.wait(0))
    finally:
        ray.util.remove_placement_group(group)


def offers() -> list[Node]:
    """List the CPUs and GPUs of each living node, used ones included."""
    import ray

    return [Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free() -> list[Node]:
    """List what is free on each living node; nothing on one that is to be taken away."""
    import ray
    from ray._private import state

    available = state.available_resources_per_node()
    for node in state.state.get_draining_nodes():
        available[node] = {}
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return [Node.of(available.get(node, {})) for node in alive]


def others_wait() -> bool:
    """Tell whether a placement group waits for resources, as that of a job that `Room` holds up."""
    import ray.util

    groups = ray.util.placement_group_table().values()
    return any(group["state"] == "PENDING" for group in groups)


class Room:
    """Waits for what others use of a cluster, each time that a run's workers are to start.

    Args:
        request: for the fewest workers of the run.
        most: workers of the run.
        minutes: most to wait while the run does not get on; None for `DEFAULT_MINUTES`.
        offers, free, reserving, pause: see the functions of this module, and `time.sleep`.
    """

    def __init__(
        self,
        request: Request,
        most: int,
        minutes: float | None,
        *,
        offers: Callable[[], Sequence[Node]] = offers,
        free: Callable[[], Sequence[Node]] = free,
        reserving: Callable[[Request], Any] = reserving,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._request, self._most = request, most
        self._minutes = DEFAULT_MINUTES if minutes is None else minutes
        self._offers, self._free = offers, free
        self._reserving, self._pause = reserving, pause
        self._seconds, self._reached = 0.0, ""

    def find(self, reached: str | None, check: Callable[[], object] = lambda: None) -> int:
        """Wait until the workers fit on what is free; log a line a minute.

        Args:
            reached: names how far the run is; where that is new, all of the time begins anew.
            check: called every second; raises what ends the wait.

        Returns:
            The number of workers to start.

        Raises:
            NotFree: not even the fewest fit within the time.
        """
        if (reached or "") != self._reached:
            self._seconds, self._reached = 0.0, reached or ""
        fewest, cpus, gpus = self._request
        for _ in range(_LOOKS):
            count = fitting(self._free(), fewest, self._most, cpus, gpus)
            if count == self._most:
                return count
            check()
            self._pause(1)
        return count or self._wait(check)

    def _wait(self, check: Callable[[], object]) -> int:
        fewest, cpus, gpus = self._request
        with self._reserving(self._request) as is_held:
            while not is_held():
                free = self._free()
                fit = f"{room(free, cpus, gpus)} of {self._request} fit on what is free"
                state = f"{fit} ({describe(free)})"
                if self._seconds >= 60 * self._minutes:
                    raise NotFree(
                        f"after {self._minutes:g} minutes {state}",
                        fix="repeat the command when others have ended (`ray status` says what is "
                        "used), or with fewer --workers or --cpus-per-worker",
                    )
                if self._seconds % 60 == 0:
                    minutes = f"{self._seconds // 60:.0f} of {self._minutes:g} minutes"
                    info(f"waiting until others have ended: {state}; {minutes}")
                check()
                self._pause(1)
                self._seconds += 1
            return min(self._most, fewest + room(self._free(), cpus, gpus))

    def missed(self) -> bool:
        """Note that Ray has tried in vain to start the workers; return whether to wait again."""
        self._seconds += 60 * RAYS_MINUTES
        return self._seconds < 60 * self._minutes

    def offer(self, trainer: Any, workers: int) -> None:
        """Let Ray's trainer start no more workers than were found room for, where others use nodes.

        Else it asks an autoscaler for all that the run may have.
        """
        fewest, cpus, gpus = self._request
        most = self._most
        if fewest <= workers < min(most, room(self._offers(), cpus, gpus)):
            most = workers
        if fewest < self._most:
            bounds = fewest, most
            trainer.scaling_config = dataclasses.replace(trainer.scaling_config, num_workers=bounds)


def _usual_cpus(growth: Growth, gpus: int) -> int:
    """Choose the CPUs of a worker: one GPU's share of its node, else two or what there is."""
    offers = [each.offer for each in growth.types if each.offer.gpus or not gpus]
    shares = [max(1, cpus // count) if gpus else min(2, cpus) for cpus, count in offers]
    return min(shares, default=1)


def _reason(kind: NodeType, request: Request) -> str:
    held = request.held_by(kind.offer)
    return f"{kind} holds {f'{held}, at most {kind.most} times' if held else 'none'}"
