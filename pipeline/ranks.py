"""Tell whether this process is one of several ranks, also while Ray shuts their group down."""

from __future__ import annotations

import torch.distributed as dist

_had_group = False


class GroupEnded(dist.DistError):
    """The process group is gone though the work that it is for goes on."""


def has_group() -> bool:
    """Return whether this process has a process group; once it had one it needs one.

    Ray destroys the group in a thread of its own when another rank has failed. A step that went on
    as if it were alone would take its own share for the whole batch.

    Raises:
        GroupEnded: it had one.
    """
    global _had_group
    here = dist.is_initialized()
    if _had_group and not here:
        raise GroupEnded("the process group was shut down while this rank trained")
    _had_group = here
    return here
