"""Start gloo ranks on the CPU and collect what each returns."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from ray import cloudpickle

from tests.support.killing import FORKS

TIMEOUT = timedelta(seconds=600)


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call ``fn(rank, *args)`` on every rank of a new process group; results in rank order.

    ``fn`` may be any function, its results must pickle. What a test has patched in its own process
    is not patched in theirs: they are forks of a server that has run nothing, since a fork of this
    process would inherit the locks of its threads (DALI's readers, an epoch that is begun ahead).

    Raises:
        AssertionError: a rank raised (its traceback is in the message) or did not answer.
    """
    call = cloudpickle.dumps((fn, args))
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            receiver, sender = FORKS.Pipe(duplex=False)
            job = (sender, call, rank, world_size, f"{folder}/store")
            process = FORKS.Process(target=_rank, args=job, daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        try:
            return [_result(rank, pipe) for rank, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.join(timeout=5)
                process.kill()


def _rank(sender: Any, call: bytes, rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    # Interfaces other than loopback may not reach the machine itself.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
        )
        fn, args = cloudpickle.loads(call)
        sender.send_bytes(pickle.dumps((True, fn(rank, *args))))
        dist.barrier()
    except BaseException:  # everything, an interrupt included, is the parent's to report
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        os._exit(0)  # no teardown of what the parent owns


def _result(rank: int, pipe: Any) -> Any:
    assert pipe.poll(TIMEOUT.total_seconds()), f"rank {rank} did not answer"
    try:
        # Plain pickles: torch would pass tensors by handles of a process that is gone by then.
        succeeded, value = pickle.loads(pipe.recv_bytes())
    except EOFError:
        raise AssertionError(f"rank {rank} died") from None
    assert succeeded, f"rank {rank} raised:\n{value}"
    return value
