"""Run ranks on a host each: `tests.support.distributed.run_ranks` over a switch.

The hosts are those of the cluster tests: namespaces with an address, processes, and disks of their
own. They do not see the checkout, so its packages are copied into a directory that they share, as
on NFS; the call and its results go through that directory as well.

A host runs this module as a script, as one rank.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharding.errors import InputError
from tests.hosts.hosts import REPOSITORY, SHARED, Host, machines
from tests.hosts.namespaces import missing
from tests.support.distributed import TIMEOUT

_PACKAGES = ("benchmarks", "pipeline", "sharding", "tests")


@contextlib.contextmanager
def ranks_on_hosts(count: int) -> Iterator[Callable[..., list[Any]]]:
    """Start hosts until the block ends; yields a `run_ranks` for up to ``count`` ranks."""
    lacking = missing()
    if lacking:
        raise InputError(
            f"--hosts needs {', '.join(lacking)}",
            fix="run as root of a machine or privileged container that has the packages named, "
            "from a virtual environment, or leave out --hosts",
        )
    addresses = {f"host{rank}": f"192.0.2.{10 + rank}" for rank in range(count)}
    with (
        tempfile.TemporaryDirectory() as folder,
        machines(Path(folder) / "disks", addresses, laptop="host0") as hosts,
    ):
        shared = Path(folder) / "disks/shared"
        compiled = shutil.ignore_patterns("__pycache__")
        for package in _PACKAGES:
            shutil.copytree(REPOSITORY / package, shared / package, ignore=compiled)
        yield functools.partial(_run_ranks, list(hosts.values()), shared)


def _run_ranks(
    hosts: Sequence[Host], shared: Path, fn: Callable[..., Any], world_size: int, *args: Any
) -> list[Any]:
    (shared / "call").write_bytes(pickle.dumps((fn, args)))
    ranks = [
        host.start(
            f"PYTHONPATH={SHARED} GLOO_SOCKET_IFNAME=eth0 MASTER_ADDR={hosts[0].address} "
            f"MASTER_PORT=29500 WORLD_SIZE={world_size} RANK={rank} "
            "python -P -m benchmarks.common.rank_hosts"
        )
        for rank, host in enumerate(hosts[:world_size])
    ]
    # No time limit: ranks that wait for a failed one time out in gloo.
    outputs = [rank.communicate()[0] for rank in ranks]
    failed = [text for rank, text in zip(ranks, outputs, strict=True) if rank.returncode]
    if failed:
        raise RuntimeError("\n".join(failed))
    return [pickle.loads((shared / f"result{rank}").read_bytes()) for rank in range(world_size)]


def _rank(shared: Path) -> None:
    torch.set_num_threads(1)
    fn, args = pickle.loads((shared / "call").read_bytes())
    dist.init_process_group("gloo", timeout=TIMEOUT)
    rank = dist.get_rank()
    (shared / f"result{rank}").write_bytes(pickle.dumps(fn(rank, *args)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(Path(SHARED))
