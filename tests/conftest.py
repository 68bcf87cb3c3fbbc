"""Fixtures shared by the suite: real data where it is at hand, one Ray instance per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Two workers and a test process share the machine: one thread each keeps timings sane.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those of GPUs: one has no room for two workers."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden vectors, named by OI_SHARED or beside the checkout."""
    folder = Path(os.environ.get("OI_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "README.md").is_file():
        pytest.skip(f"real data is absent: no {folder}; set OI_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A small Ray instance of this session's own, never one that happens to be running."""
    import ray

    from pipeline.cluster.session import connect

    connect("local", num_cpus=4, object_store_memory=200 * 1024**2)
    yield
    ray.shutdown()


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty bucket on a server that is this test's own: a `tests.support.buckets.Bucket`."""
    from tests.support.buckets import empty_bucket

    with empty_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small learnable dataset; do not write into it."""
    from tests.support.datasets import write_dataset

    return write_dataset(tmp_path_factory.mktemp("squares"))
