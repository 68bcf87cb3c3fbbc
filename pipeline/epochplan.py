"""Who reads how much of a split: in an epoch of training, and where images are only scored."""

from __future__ import annotations

from dataclasses import dataclass

from sharding.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """Who reads how much in one epoch: every sample once over all ranks, equal step counts.

    Attributes:
        samples: of the whole split; none take no step.
        world_size: number of ranks.
        batch_size: images per rank and step.
    """

    samples: int
    world_size: int
    batch_size: int

    def __post_init__(self) -> None:
        if 0 < self.samples < self.world_size:
            raise InputError(
                f"{self.samples} images cannot be split over {self.world_size} workers",
                fix="use fewer workers",
            )

    def samples_of(self, rank: int) -> int:
        """Images that ``rank`` reads: contiguous ranges whose sizes differ by at most one."""
        begin = self.samples * rank // self.world_size
        return self.samples * (rank + 1) // self.world_size - begin

    @property
    def steps(self) -> int:
        """Steps of every rank; a rank's last batch may be smaller than the others', or empty."""
        largest = max(self.samples_of(rank) for rank in range(self.world_size))
        return -(-largest // self.batch_size)


def whole_batches(samples: int, batch_size: int, part: int, parts: int) -> range:
    """The images of one of ``parts`` contiguous shares, cut between batches of the whole split.

    What stands in a batch together is the same for any number of parts, down to the last batch
    alone being smaller. Shares differ by at most one batch; one may be empty.
    """
    batches = -(-samples // batch_size)
    edges = (batches * number // parts * batch_size for number in (part, part + 1))
    return range(*(min(samples, edge) for edge in edges))
