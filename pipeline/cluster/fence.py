"""Keep Ray's controller from a run that another driver has taken over, and from waiting in vain.

The controller lists a checkpoint and removes the worst one in one go, where a worker has reported
it or, with ``--async-validation``, where it finds a validation done: seconds after that looked at
the lease. So the lease is read right before the list is written, which is before anything is
removed.

When the workers have ended, the controller waits for all validations, those in its queue too. Where
training is to stop, or goes on at once with other workers, it must not: they stay listed as still
to come, and the next controller begins them again; when it has its workers, whose place they would
take else.

Ray calls nothing of ours there; what it calls is wrapped in the controller's process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.checkpoint.validation_manager import ValidationManager

from pipeline.cluster.lease import Held, Lease
from pipeline.cluster.preemption import Poll
from pipeline.tracking.run_log import TrainingLog

_WRITE = CheckpointManager._write_state_to_storage
_BEGIN = ValidationManager._kick_off_validations
_FINISH = ValidationManager.before_controller_shutdown
_LOOK_SECONDS = 1.0


class Fence(WorkerGroupCallback):
    """Guards the process that unpickles it: the controller, which gets all callbacks of a run.

    Args:
        lease: of the driver that the controller works for.
        run_log: knows whether that driver is to stop.
    """

    def __init__(self, lease: Lease, run_log: TrainingLog) -> None:
        self.lease, self.run_log = lease, run_log
        self._started, self._stopped_early = False, False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        lease, stop_requested = self.lease, Poll(self.run_log.stop_requested)

        def write(manager: Any) -> None:
            try:
                lease.check()
            except Held:
                # The driver says it in one line, and ends this process.
                logging.getLogger("ray.train").setLevel(logging.CRITICAL)
                raise
            _WRITE(manager)

        def begin(manager: Any) -> int:
            return _BEGIN(manager) if self._started else len(manager._pending_validations)

        async def finish(manager: Any) -> None:
            """Wait for all validations, as Ray does, but leave them when they must not be."""
            waiting = asyncio.ensure_future(_FINISH(manager))
            while not (waiting.done() or self._stopped_early or stop_requested()):
                await asyncio.wait([waiting], timeout=_LOOK_SECONDS)
            if waiting.done():
                return waiting.result()
            waiting.cancel()
            manager.before_controller_abort()

        CheckpointManager._write_state_to_storage = write
        ValidationManager._kick_off_validations = begin
        ValidationManager.before_controller_shutdown = finish

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note that the workers have their place."""
        self._started = True

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Note whether the workers have ended because they were asked to."""
        ends = (each.return_value for each in worker_group_status.worker_statuses.values())
        self._stopped_early = any(getattr(end, "reason", None) is not None for end in ends)
