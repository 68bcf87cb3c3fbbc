"""Fork gloo ranks on the CPU and collect what each returns."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.data.pipelines import NEXT_EPOCH

TIMEOUT = timedelta(seconds=120)


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call ``fn(rank, *args)`` on every rank of a new process group; results in rank order.

    The ranks are forks: ``fn`` may be any function, its results must pickle.

    Raises:
        AssertionError: a rank raised (its traceback is in the message) or did not answer.
    """
    for thread in threading.enumerate():
        if thread.name.startswith(NEXT_EPOCH):  # a fork would inherit what it has locked
            thread.join()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            job = (sender, fn, rank, world_size, f"{folder}/store", args)
            process = context.Process(target=_rank, args=job, daemon=True)
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


def _rank(
    sender: Any, fn: Callable[..., Any], rank: int, world_size: int, store: str, args: Any
) -> None:
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
