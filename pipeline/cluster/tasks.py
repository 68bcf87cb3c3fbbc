"""Run functions and actors on Ray: a parallel map, an actor pool, calls that nobody waits for."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.cluster import session
from sharding.errors import InputError, MachineError
from sharding.log import first_line
from sharding.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_ATTEMPTS = 3
"""Workers that may die of one item before it is set aside."""
_SECONDS_BETWEEN_LOOKS = 1.0
_MOST_LOST = 3
"""Items, of which the first ones may be lost before all are taken to be."""


class RayDied(MachineError):
    """Processes of Ray died more often than it starts them again, or Ray itself did."""


def task_map(
    label: str, workers: int | None = None
) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """Make the parallel map that a job hands down: ``map(function, items)`` yields results.

    Ray is joined, or started, by the first call that has items. Results come as they finish.

    Args:
        label: of the progress bar.
        workers: most tasks at a time; None for twice what the cluster runs at once.
    """

    def parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if not items:
            return iter(())
        session.connect()
        return run_tasks(function, items, max_in_flight=workers, label=label)

    return parallel


def run_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    max_in_flight: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    label: str = "tasks",
) -> Iterator[Result]:
    """Run ``function`` over ``items`` as Ray tasks; yield results as they finish.

    At most ``max_in_flight`` tasks (default: twice what the cluster runs at once) are submitted,
    so that the object store holds no more results than that; an autoscaler that starts nodes for
    those that wait raises the default. A task whose worker or host dies is
    run again up to three times; an exception of ``function`` is raised here.

    Raises:
        RayDied: Ray itself is gone, or a task's worker died each time.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    remote = ray.remote(_call).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_retries=3,
        # Not in that of a trial (`pipeline.cluster.trials`), which has room for the trial alone.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
    )
    waiting = list(reversed(items))
    running: list[Any] = []
    with Progress(len(items), label, unit="task") as progress:
        while waiting or running:
            at_once = max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))
            limit = max_in_flight or 2 * at_once
            while waiting and len(running) < limit:
                running.append(remote.remote(function, waiting.pop()))
            reference = _next_done(running, progress)
            running.remove(reference)
            with _deaths_of_ray():
                result = ray.get(reference)
            progress.advance()
            yield result


def _next_done(running: Sequence[Any], progress: Progress) -> Any:
    """Wait for one of several references, showing the time."""
    import ray

    while not (done := ray.wait(running, num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)[0]):
        progress.look()
    return done[0]


@contextlib.contextmanager
def _deaths_of_ray() -> Iterator[None]:
    """Turn the exceptions of dead workers, hosts and Ray itself into `RayDied`."""
    import ray

    try:
        yield
    except Exception as error:
        deaths = (
            ray.exceptions.LocalRayletDiedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.RaySystemError,
            ray.exceptions.RpcError,
            ray.exceptions.WorkerCrashedError,
        )
        if not isinstance(error, deaths):
            raise
        raise RayDied(
            f"Ray ended the work: {_cause_of_death(error)}",
            fix="repeat the command, what is finished is kept; if it comes again, see Ray's logs "
            "in /tmp/ray/session_latest/logs, or give it fewer --workers",
        ) from None


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    # Ray decorates functions only; going through one lets callers pass partials and builtins.
    return function(item)


def map_parts(
    kind: type,
    arguments: Mapping[str, Any],
    items: Sequence[Item],
    *,
    set_aside: Callable[[Item, str], Result],
    workers: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    label: str = "parts",
) -> Iterator[Result]:
    """Call ``kind(**arguments)({"item": item, "attempt": n})`` for every item on a pool of actors.

    Each of ``workers`` actors makes its ``kind`` once, which is where a model is loaded; yields
    the returned rows (dicts of plain values) as they come. An actor that dies is replaced and its
    item done again, with the number of this attempt; an exception of ``kind`` is raised here.

    Args:
        set_aside: called with an item that `MOST_ATTEMPTS` actors died of and with the reason;
            returns its row.

    Raises:
        InputError: actors die of all items alike.
    """
    import ray

    remote = ray.remote(_Maker).options(num_cpus=num_cpus, num_gpus=num_gpus)
    waiting, running = iter(items), dict[Any, tuple[Any, Item, int]]()
    lost, is_done = 0, False

    def give(actor: Any, item: Item, attempt: int) -> None:
        running[actor.call.remote(item, attempt)] = actor, item, attempt

    try:
        with Progress(len(items), label, unit="part") as progress:
            for item in itertools.islice(waiting, workers):
                give(remote.remote(kind, dict(arguments)), item, 1)
            while running:
                done = _next_done(list(running), progress)
                actor, item, attempt = running.pop(done)
                try:
                    row, is_done = ray.get(done), True
                except (
                    ray.exceptions.RayActorError,
                    ray.exceptions.NodeDiedError,
                    ray.exceptions.OutOfMemoryError,
                ) as error:
                    ray.kill(actor)  # one out of reach may live
                    actor = remote.remote(kind, dict(arguments))
                    attempt += not getattr(error, "preempted", False)
                    if attempt <= MOST_ATTEMPTS:
                        give(actor, item, attempt)
                        continue
                    reason, lost = _cause_of_death(error), lost + 1
                    if lost >= _MOST_LOST and not is_done:
                        raise _all_die(lost * MOST_ATTEMPTS, reason) from None
                    row = set_aside(item, f"{MOST_ATTEMPTS} workers died of it: {reason}")
                for item in itertools.islice(waiting, 1):
                    give(actor, item, 1)
                progress.advance()
                yield row
    finally:
        for actor, _, _ in running.values():
            ray.kill(actor)


def _cause_of_death(error: Exception) -> str:
    """Say why an actor died, without Ray's ids and advice."""
    text = " ".join(str(error).split())
    if "low on memory" in text:  # Ray names the OOM killer after any death
        return "out of memory"
    detail = re.search(r"exit detail: ([^.]+)", text)
    return detail[1] if detail else first_line(error)


def _all_die(deaths: int, reason: str) -> InputError:
    return InputError(
        f"{deaths} workers died and none did its work: {reason}",
        fix="give each more memory (fewer --workers, a smaller --batch-size), or see Ray's logs in "
        "/tmp/ray/session_latest/logs; then repeat the command: what is finished is kept",
    )


class _Maker:
    """Makes a ``kind`` at the first call, so that its exceptions are those of a call."""

    def __init__(self, kind: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._make = functools.cache(functools.partial(kind, **arguments))

    def call(self, item: Any, attempt: int) -> Any:
        return self._make()({"item": item, "attempt": attempt})


def start_actor(kind: type, *arguments: Any) -> Detached:
    """Start an actor on this machine, without claiming a CPU.

    If its process dies it is started again, and calls it had not answered are repeated in order.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node_id = ray.get_runtime_context().get_node_id()
    remote = ray.remote(kind).options(
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        max_restarts=-1,
        max_task_retries=-1,
    )
    return Detached(remote.remote(*arguments))


class Detached:
    """Handle of an actor whose methods are called without waiting: ``sink.log(...)``.

    A call returns a Ray reference at once, whose value `answer` waits for.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickling asks for these before the actor is set
            raise AttributeError(name)
        return getattr(self._actor, name).remote


def answer(reference: Any, otherwise: Any) -> Any:
    """Wait for the value of a Ray reference; ``otherwise`` if its actor is gone."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError:
        return otherwise


def is_ready(reference: Any) -> bool:
    """Check whether `answer` would return at once."""
    import ray

    return bool(ray.wait([reference], timeout=0)[0])
