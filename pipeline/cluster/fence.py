"""Keep Ray's controller from a run that another driver has taken over.

The controller lists a checkpoint and removes the worst one in one go, where a worker has reported
it or, with ``--async-validation``, where it finds a validation done: seconds after that looked at
the lease. So the lease is read right before the list is written, which is before anything is
removed. Ray calls nothing of ours there; what it calls is wrapped in the controller's process.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.train import UserCallback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager

from pipeline.cluster.lease import Held, Lease

_WRITE = CheckpointManager._write_state_to_storage


class Fence(UserCallback):
    """Guards the process that unpickles it: the controller, which gets all callbacks of a run.

    Args:
        lease: of the driver that the controller works for.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        lease = self.lease

        def write(manager: Any) -> None:
            try:
                lease.check()
            except Held:
                # The driver says it in one line, and ends this process.
                logging.getLogger("ray.train").setLevel(logging.CRITICAL)
                raise
            _WRITE(manager)

        CheckpointManager._write_state_to_storage = write
