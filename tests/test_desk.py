"""Datasets in a bucket: the same bytes as on a disk, over failures and kills."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharding.convert import convert
from sharding.desk import at_desk
from sharding.fetching import Fetching
from sharding.options import ShardOptions
from sharding.prepare import prepare
from tests.photos import tree, write_photo_dump
from tests.servers import Web, s3

FAST = Fetching(tries=2, timeout=2.0, at_once=4, first_pause=0.01)
URL = "s3://data/sets/tiny"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_photo_dump(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def on_disk(inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("disk") / "tiny"
    shard(inputs, str(output), output)
    return tree(output)


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    names = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with s3() as web, pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "AWS_ENDPOINT_URL": web.url}.items():
            patch.setenv(name, value)
        yield web


@pytest.fixture
def bucket(server: Web) -> Iterator[Any]:
    """A boto3 bucket named "data", empty."""
    import boto3

    bucket = boto3.resource("s3", region_name="us-east-1").Bucket("data")
    bucket.create()
    server.asked.clear()
    yield bucket
    server.faults = {}
    bucket.objects.all().delete()
    bucket.delete()


def shard(inputs: tuple[Path, Path], output: str, scratch: Path, **more: Any) -> str:
    settings = {"images_per_shard": 10, "fetch": FAST, "scratch": scratch, **more}
    options = ShardOptions(annotations=inputs[0], images=str(inputs[1]), output=output, **settings)
    with at_desk(options.output, options.fetch, options.scratch) as desk:
        here = dataclasses.replace(options, output=str(desk.directory))
        told = convert(prepare(here), desk.through(map))
    return desk.named(str(told))


def objects(bucket: Any, prefix: str = "sets/tiny/") -> dict[str, str]:
    """Hash of every object, by its name below the prefix."""
    return {
        found.key.removeprefix(prefix): hashlib.sha256(found.get()["Body"].read()).hexdigest()
        for found in bucket.objects.filter(Prefix=prefix)
        if not found.key.endswith("/")  # Arrow keeps a folder that it has emptied
    }


def test_a_bucket_gets_the_bytes_that_a_directory_would(
    inputs, bucket, on_disk: dict[str, str], tmp_path: Path
) -> None:
    told = shard(inputs, URL, tmp_path)
    assert told.startswith(f"{URL} is finished")
    assert objects(bucket) == on_disk
    assert not list(tmp_path.iterdir())
    assert "already finished; nothing was done" in shard(inputs, URL, tmp_path)
