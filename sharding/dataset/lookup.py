"""Read single images of a dataset, and who took them, by id, to look at a few of them."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from sharding.errors import REPEAT_COMMAND, InputError, how_to_repair
from sharding.image_ids import parse_image_ids
from sharding.layout import ATTRIBUTION_FILE
from sharding.manifest import Dataset
from sharding.sources.shard import ShardSource
from sharding.storage.object_store import ObjectStore
from sharding.storage.parquet import as_input_error
from sharding.storage.retry import BadImage


def read_images(
    dataset: Dataset,
    split: str,
    image_ids: Sequence[str],
    labels: str | None = None,
    bucket: ObjectStore | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Read (id, encoded bytes) of images, each once, one tar after the other.

    Args:
        dataset: that has the images.
        split: of the images.
        image_ids: of the images wanted.
        labels: label version whose table says which tar holds an image; the default one if not
            given.
        bucket: where the tars are, if not in the dataset's directory; one at a time is downloaded.

    Raises:
        InputError: the dataset has no pixels of an image, or a tar is damaged.
    """
    table = dataset.labels(split, labels)
    by_shard: dict[str, list[str]] = defaultdict(list)
    names = list(dict.fromkeys(image_ids))
    for image_id, row in zip(names, table.rows_of(parse_image_ids(names)).tolist(), strict=True):
        by_shard[table.shards[row] if row >= 0 else ""].append(image_id)
    records = {shard.path: shard for shard in dataset.shards(split)}
    for path, wanted in sorted(by_shard.items()):
        if path not in records:
            raise InputError(
                f"no pixels of {wanted[0]} in split {split}",
                file=dataset.directory,
                fix="pass the dataset that was trained on",
            )
        source = ShardSource.of(dataset.directory, records[path], bucket)
        with source.reader(split, wanted) as read:
            for image_id in wanted:
                try:
                    yield image_id, bytes(read(image_id))
                except BadImage as error:
                    raise InputError(
                        f"{image_id}: {error}",
                        file=source.tar,
                        fix=how_to_repair(dataset.directory / path),
                    ) from None


def read_credits(dataset: Dataset, image_ids: Sequence[str]) -> dict[str, str]:
    """Read "author, licence" by image id from `attribution.parquet`, as far as it knows them."""
    path = dataset.directory / ATTRIBUTION_FILE
    if not image_ids or not path.exists():  # of no ids pyarrow does not know the type
        return {}
    with as_input_error(path, kind="table of credits", fix=REPEAT_COMMAND):
        columns = ["image_id", "author", "license"]
        table = pq.read_table(path, columns=columns, filters=[("image_id", "in", set(image_ids))])
        rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
        # The image lists of Open Images write names as HTML does: O&#x27;Neill.
        texts = ((image_id, ", ".join(filter(None, credit))) for image_id, *credit in rows)
        return {image_id: html.unescape(text) for image_id, text in texts}
