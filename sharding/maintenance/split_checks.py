"""Check that each image of a dataset is in one split: by its tars, and by its label tables."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from sharding.dataset.label_versions import labels_without_pixels
from sharding.dataset.members import Members, ids_of, members_in
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.layout import MANIFEST_FILE, NAMES_HASH
from sharding.maintenance.problems import Kind, Problem
from sharding.manifest import Dataset


def check_splits(dataset: Dataset) -> Iterator[Problem]:
    """Check that no image is in two splits; files that cannot be read are other problems."""
    with contextlib.suppress(InputError):
        members = members_in(dataset)
        yield from _in_two_splits(members)
        yield from _with_pixels_after_all(dataset, members)


def _in_two_splits(members: Sequence[Members]) -> Iterator[Problem]:
    """Find images that tars of two splits hold."""
    splits = dict.fromkeys(part.shard.split for part in members)
    for one, other in itertools.combinations(splits, 2):
        both_N = np.intersect1d(ids_of(one, members), ids_of(other, members))
        for first in format_image_ids(both_N[:1]):
            what = f"{len(both_N):,} images are in {one} and in {other}, such as {first}"
            yield Problem(path=MANIFEST_FILE, what=what, kind=Kind.REPEATED)


def _with_pixels_after_all(dataset: Dataset, members: Sequence[Members]) -> Iterator[Problem]:
    """Find labels of an import that no job reads: they wait for pixels that a tar holds.

    Releases of Open Images may say different splits of an image before it has pixels; the labels
    of those that the tar does not follow stay where they are.
    """
    if NAMES_HASH not in dataset.manifest.created_by:
        return
    held_N = np.concatenate([np.empty(0, np.uint64), *(part.image_ids_N for part in members)])
    for name, version in dataset.manifest.labels.items():
        for split, file in version.splits.items():
            if file.without_pixels is None:
                continue
            with contextlib.suppress(InputError):
                ids_N = labels_without_pixels(dataset, split, name).image_ids_N
                both_N = np.intersect1d(ids_N, held_N)
                for first in format_image_ids(both_N[:1]):
                    what = f"lists {len(both_N):,} images that tars hold, such as {first}"
                    path = file.without_pixels.path
                    yield Problem(path=path, what=what, kind=Kind.LABELS, labels=name)
