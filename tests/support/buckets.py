"""Make S3 buckets on a moto server, reached by pyarrow's file systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from sharding.storage import object_store
from tests.support.servers import Web, s3

_NAME = "kept"


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket and its server."""

    server: Web
    bucket: Any

    def url(self, key: str) -> str:
        return f"s3://{_NAME}/{key}"

    def put(self, prefix: str, folder: Path) -> None:
        """Upload every file of a folder below the prefix."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.bucket.put_object(Key=key, Body=path.read_bytes())

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Content by name below the prefix."""
        return {
            item.key.removeprefix(f"{prefix}/"): item.get()["Body"].read()
            for item in self.bucket.objects.filter(Prefix=f"{prefix}/")
        }

    def remove(self, *keys: str) -> None:
        self.bucket.delete_objects(Delete={"Objects": [{"Key": key} for key in keys]})


@contextlib.contextmanager
def empty_bucket() -> Iterator[Bucket]:
    """Start a server with an empty bucket and point the environment to it."""
    import boto3

    with s3() as server:
        _forget_clients()
        bucket = boto3.resource("s3", region_name="us-east-1").Bucket(_NAME)
        bucket.create()
        yield Bucket(server=server, bucket=bucket)
        bucket.objects.all().delete()  # moto's buckets are of the process, not of a server
        bucket.delete()
        _forget_clients()


def _forget_clients() -> None:
    """Drop the clients that are kept for a bucket's name: the next server has another port."""
    for kept in (storage._client, object_store._open_transport, object_store._open_files):
        kept.cache_clear()
