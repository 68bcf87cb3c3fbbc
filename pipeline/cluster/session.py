"""Connect to a Ray cluster with our code shipped, and ask what it offers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pipeline
import sharding
from pipeline import storage
from pipeline.cluster import placement, preflight, scaling
from sharding import log
from sharding.errors import InputError
from sharding.progress import say, ticking

# `ray submit` cannot pass environment variables, so the defaults are set here, before ray is
# imported. A user's own setting wins.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first error is told; others of that kind follow it
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every print of a worker appears twice
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it prints C++ frames on SIGTERM
    "RAY_DEDUP_LOGS_SKIP_REGEX": (
        "Failed to query Ray Train Controller actor state|Reporting training result"
        "|OnShutdownComplete|core_worker.cc|mutex.cc"
    ),
}

# torch's tensors on the CPU in huge pages: a fresh batch costs page faults otherwise, five times
# what its normalisation does.
_MEMORY = {"THP_MEM_ALLOC_ENABLE": "1"}
_HELPERS = (
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client",
    "ray.train.v2._internal.execution.controller.placement_group_cleaner",
)
# Where `ray up` leaves the cluster file, with what it looked up, for the head's autoscaler.
_CLUSTER_FILE = "~/ray_bootstrap_config.yaml"


def package_directories() -> list[Path]:
    """List the two packages every worker must run in the driver's version."""
    return [Path(package.__file__ or "").parent for package in (pipeline, sharding)]


@functools.cache  # `connect` ships the files as they are now; they may be edited while a job waits
def code_hash() -> str:
    """Hash both packages' Python files, to name the code of a run in MLflow."""
    digest = hashlib.sha256()
    for directory in package_directories():
        for path in sorted(directory.rglob("*.py")):
            digest.update(path.relative_to(directory.parent).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def connect(address: str | None = None, **options: Any) -> None:
    """Join the running cluster, or start a local one; ship both packages to every worker.

    Args:
        address: a Ray address, "local" for a fresh instance on this machine, or None for
            `RAY_ADDRESS`, else the cluster this machine belongs to (Ray's file of the last
            `ray start` names it), else a fresh local one.
        options: passed to `ray.init` (for example ``num_cpus`` in tests).

    A shipped copy wins over an installed one, so every worker runs exactly the driver's code even
    where a node was set up with an older version.

    Raises:
        InputError: nothing answers at the address, or a node of the cluster cannot run the driver's
            job (see `pipeline.cluster.preflight`).
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    wanted, begun = address or os.environ.get("RAY_ADDRESS", ""), time.monotonic()
    import ray

    place = _find(wanted)
    say(str(place))
    with ticking("Ray starts"):
        preflight.require_answer(place)
        code_hash()
        _init(
            place,
            address=address,
            runtime_env={
                "py_modules": [str(path) for path in package_directories()],
                "env_vars": _MEMORY,
                "worker_process_setup_hook": "pipeline.cluster.session.prepare_worker",
            },
            logging_level="ERROR",
            logging_config=ray.LoggingConfig(encoding="JSON") if log.is_json() else None,
            # Else Ray Train asks port 8265 whether the job lives; another's may answer there.
            **{"include_dashboard": False, "dashboard_port": 0, **options},
        )
    watched = scaling.may_lose_nodes(len(nodes()), _growth(), place.address)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", str(int(watched)))
    _check_nodes()
    seconds = time.monotonic() - begun
    say(f"Ray runs ({seconds:.0f} s): {placement.describe(nodes())}", seconds=seconds)


def _find(wanted: str) -> preflight.Place:
    """Find the cluster that `ray.init` will join, as it does; none where it will start one.

    Args:
        wanted: address; "" or "auto" for the cluster of this machine.
    """
    from ray._common.utils import get_ray_address_file
    from ray._private import services

    if wanted not in ("", "auto"):
        return preflight.Place(wanted)
    running = services.find_gcs_addresses() if wanted else frozenset()
    if len(running) == 1:
        return preflight.Place(*running)
    address = services.find_bootstrap_address(None)
    if address is None:
        return preflight.Place(wanted)
    return preflight.Place(address, get_ray_address_file(None))


def _init(place: preflight.Place, **options: Any) -> None:
    """Call `ray.init`, twice where a busy machine does not start its own Ray within Ray's time.

    Raises:
        InputError: there is no such cluster, or Ray does not start on this machine.
    """
    import ray

    for is_last in (False, True):
        try:
            ray.init(**options)
            return
        except Exception as error:
            reason = log.first_line(error)
            ray.shutdown()
        if place.is_elsewhere:
            raise preflight.not_joined(place, reason)
        if not is_last:
            log.info(f"Ray did not start ({reason}); trying once more", "WARNING")
    raise InputError(
        f"Ray did not start on this machine: {reason}",
        fix="repeat the command when the machine is less busy; logs: /tmp/ray/session_latest/logs",
    )


def connect_while(work: Callable[[], object]) -> None:
    """Connect, and call ``work`` in another thread meanwhile; its error comes before Ray's."""
    # Ray stays in this thread: what it starts ends with the thread that started it.
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            connect()
        finally:
            working.result()


def prepare_worker() -> None:
    """Set `RAY_ADDRESS` in this worker process, which inherited the driver's ("local", or none).

    Ray Train's `PlacementGroupCleaner` asks there whether the job lives; another instance, or the
    cluster of `RAY_API_SERVER_ADDRESS`, knows no such job. What Ray Train's helpers warn of on a
    busy machine, with a traceback and "safe to ignore", is not shown.
    """
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)  # by which a user submits to a cluster
    for name in _HELPERS:  # a filter, since Ray Train sets their levels anew
        logging.getLogger(name).addFilter(_nothing)
    # Of a first figure it says, above the bar, that it listed the fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def job_id() -> str:
    """Return Ray's id of this driver's job."""
    import ray

    return ray.get_runtime_context().get_job_id()


def nodes() -> list[placement.Node]:
    """List what each living node of the cluster offers."""
    return scaling.offers()


def shares(workers: int | None, cpus: int | None, minutes: float | None) -> tuple[int, float, int]:
    """Choose (workers, GPUs, CPUs per worker); see `wait_for_nodes` and `placement.shares`."""
    wait_for_nodes(workers, cpus, minutes)
    return placement.shares(nodes(), workers, cpus)


def place(
    fewest: int, most: int, cpus_per_worker: int | None, minutes: float | None = None
) -> tuple[bool, int]:
    """Choose (use GPUs, CPUs per worker); see `wait_for_nodes` and `placement.place`."""
    wait_for_nodes(fewest, cpus_per_worker, minutes)
    return placement.place(nodes(), fewest, most, cpus_per_worker)


def wait_for_nodes(workers: int | None, cpus_per_worker: int | None, minutes: float | None) -> None:
    """Ask the autoscaler for the nodes that so many workers lack, and wait until they have joined.

    Args:
        workers: fewest of the job; None if any number will do.
        cpus_per_worker: None if any number will do.
        minutes: most to wait; None for `scaling.DEFAULT_MINUTES` if the cluster may start nodes,
            else 0.

    Raises:
        InputError: the cluster can never hold them, or (`scaling.NotJoined`) nodes did not come.
    """
    growth = _growth()
    minutes = (scaling.DEFAULT_MINUTES if growth.types else 0) if minutes is None else minutes
    request = scaling.missing(nodes(), growth, workers, cpus_per_worker) if minutes else None
    if request is None:
        return
    with scaling.reserving(request):
        scaling.wait(request, growth, nodes, minutes)
    _check_nodes()


def _growth() -> scaling.Growth:
    """Read what this cluster's autoscaler may start; nothing where there is none."""
    import yaml

    try:
        config = yaml.safe_load(Path(_CLUSTER_FILE).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return scaling.Growth()
    return scaling.Growth.of(config)


def check_shared(directory: str) -> None:
    """Write a file that all nodes of a cluster have to read; see `preflight.check_shared`.

    Args:
        directory: path or URL that the job writes to.
    """
    if len(nodes()) < 2:
        return
    word = uuid4().hex
    location = storage.join(directory, f".preflight-{word}")
    storage.write_bytes(location, word.encode())
    try:
        answers = _ask_nodes(preflight.read_word, location, word)
    finally:
        with contextlib.suppress(OSError):
            storage.remove_file(location)
    preflight.check_shared(directory, answers)


def _node_facts() -> dict[str, str]:
    return preflight.facts(code_hash())


def _check_nodes() -> None:
    """Compare every node of a cluster of several with the driver; see `preflight.check`."""
    if answers := _ask_nodes(_node_facts):
        preflight.check(_node_facts(), answers)


def _ask_nodes(question: Callable[..., Any], *arguments: Any) -> dict[str, Any | None]:
    """Call a function on each node of a cluster of several; None for those that do not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    present = [node for node in ray.nodes() if node["Alive"]]
    if len(present) < 2:
        return {}
    references = {}
    for node in present:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(question).options(num_cpus=0, scheduling_strategy=on_node)
        references[node["NodeManagerAddress"]] = task.remote(*arguments)
    done, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=60)
    answers: dict[str, Any | None] = dict.fromkeys(references)
    for address, reference in references.items():
        if reference in done:
            with contextlib.suppress(ray.exceptions.RayError):  # the node died meanwhile
                answers[address] = ray.get(reference)
    return answers
