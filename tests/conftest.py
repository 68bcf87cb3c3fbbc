"""Share fixtures: the folder of real data, one Ray instance per session, a bucket, a dataset."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two workers and a test process share the machine: one thread each keeps timings sane.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Other work may share the machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPOSITORY = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those of GPUs: one has no room for two workers."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # xdist's processes ignore it, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start Ray: `make test` ends with short ones on both processes."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Find the folder of real data and golden vectors: OI_SHARED, else `shared` by the checkout."""
    folder = Path(os.environ.get("OI_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "README.md").is_file():
        pytest.skip(f"real data is absent: no {folder}; set OI_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Start a small Ray instance; one that is running already is left alone."""
    import ray

    from pipeline.cluster.session import connect

    connect("local", num_cpus=2, object_store_memory=200 * 1024**2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_address(ray_local: None) -> str:
    """Name that instance to jobs that join it: a start of their own takes them seconds."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make MLflow's database, to be copied: its forty migrations take two seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Start a server with an empty bucket, a `tests.support.buckets.Bucket`."""
    from tests.support.buckets import empty_bucket

    with empty_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small learnable dataset; tests only read it."""
    from tests.support.datasets import write_dataset

    return write_dataset(tmp_path_factory.mktemp("squares"))
