"""Tell whether this process is one of several ranks, also while Ray shuts their group down."""

from __future__ import annotations

import torch.distributed as dist

_ranks = 1


class GroupEnded(dist.DistError):
    """The process group is gone though the work that it is for goes on."""


def expect(world_size: int) -> None:
    """Declare over how many ranks this process trains; several need their process group throughout.

    Args:
        world_size: number of ranks. A training declares it at its start, since a process that has
            no group cannot tell whether it was shut down or never there.
    """
    global _ranks
    _ranks = world_size


def has_group() -> bool:
    """Return whether this process has a process group.

    Ray destroys the group in a thread of its own when another rank has failed. A step that went on
    as if it were alone would take its own share for the whole batch.

    Raises:
        GroupEnded: there is none, and several ranks were declared.
    """
    here = dist.is_initialized()
    if _ranks > 1 and not here:
        raise GroupEnded("the process group was shut down while this rank trained")
    return here
