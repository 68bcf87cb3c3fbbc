"""Which images still need pixels: those that no tar of any split holds, each in one split."""

from __future__ import annotations

import numpy as np

from sharding.dataset.members import Members
from sharding.image_ids import parse_image_ids
from sharding.labels import LabelTable
from sharding.layout import INDEX, shard_path
from sharding.maintenance.extend import without_pixels
from sharding.manifest_parts import ShardRecord
from tests.support.dumpmaking import IDS


def table(*image_ids: str) -> LabelTable:
    return LabelTable.from_lists(image_ids, [[0]] * len(image_ids), [[]] * len(image_ids))


def test_an_image_of_a_tar_or_of_a_later_split_is_not_asked_for_again() -> None:
    held, twice, alone, last = IDS
    name = "train-000000"
    shard = ShardRecord(
        path=shard_path(name),
        index=shard_path(name, INDEX),
        split="train",
        images=1,
        bytes=1,
        sha256="",
        index_sha256="",
    )
    members = [Members(shard=shard, image_ids_N=parse_image_ids([held]))]
    tables = {"train": table(held, twice, alone), "validation": table(held, twice, last)}
    wanted = without_pixels(tables, members)
    assert list(wanted) == ["train", "validation"]
    np.testing.assert_array_equal(wanted["train"], parse_image_ids([alone]))
    np.testing.assert_array_equal(wanted["validation"], np.sort(parse_image_ids([twice, last])))
