"""What the driver makes sure of before a worker starts: input, resources, the run's identity."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from pipeline import methods, storage
from pipeline.cluster import checkpoints, preflight, session
from pipeline.config.train import TrainConfig, differences
from pipeline.data.loader import Loader
from pipeline.models import cam_net
from pipeline.tracking import runs
from pipeline.training import distributed
from pipeline.training.validation import VALIDATION
from sharding.errors import InputError
from sharding.log import info
from sharding.manifest import Dataset

_DISTRIBUTION = "openimages-boostlu"


def check(config: TrainConfig, dataset: Dataset) -> None:
    """Fail here, on the driver, for whatever would fail on every worker."""
    table = dataset.labels("train", config.labels)
    if "://" not in config.dataset:  # the workers copy the images of a URL themselves
        Loader.of_split(dataset, "train", batch_size=1, image_size=1)
    mids, images = dataset.classes.mids, len(table.image_ids_N)
    distributed.check(config.parallel, methods.create_for(config, mids=mids, num_images=images))
    cam_net.build(config.model, 1)


def resources(config: TrainConfig) -> tuple[bool, int]:
    """(use GPUs, CPUs per worker); Ray would wait for ever for what is not there."""
    fewest, most = config.worker_range
    # Room for the task that validates meanwhile, where there is any.
    use_gpu, cpus = session.place(fewest, most + config.async_validation, config.cpus_per_worker)
    if config.model.sync_batchnorm and not use_gpu:
        info("--sync-batchnorm is for GPUs: each worker keeps statistics of its own", "WARNING")
    if config.model.sync_batchnorm and config.model.compile and use_gpu:
        info("--sync-batchnorm cuts what --compile compiles into pieces: leave one out", "WARNING")
    return use_gpu, cpus


def with_labels(config: TrainConfig, dataset: Dataset, directory: str) -> TrainConfig:
    """Name the label version: the one asked for, the run's, or in a new run the dataset's.

    The dataset's own may become another one while a run is away.
    """
    stored = _stored(storage.join(directory, "config.json"))
    named = config.labels or (stored.labels if stored else None)
    labels, _ = dataset.label_version(named)
    return dataclasses.replace(config, labels=labels)


def claim(directory: str, config: TrainConfig) -> bool:
    """Write the run's configuration, or check that it is the one already there.

    Returns:
        Whether the run existed.

    Raises:
        InputError: a run of this name with another configuration, or one that cannot be read; the
            storage cannot be read or written.
    """
    location = storage.join(directory, "config.json")
    stored = _stored(location)
    if stored is not None:
        # A run of an older version may not name its labels.
        stored = dataclasses.replace(stored, labels=stored.labels or config.labels)
        changed = differences(stored, config)
        if changed:
            told = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
            raise InputError(
                f"run {config.run_name!r} exists with another configuration ({told})",
                file=location,
                fix="repeat the first command to resume, or choose another --name",
            )
    with _usable(location):
        storage.write_json(location, config.to_dict())
    return stored is not None


def _stored(location: str) -> TrainConfig | None:
    """The configuration of a run, None where it has not begun."""
    try:
        with _usable(location):
            raw = storage.read_json(location)
        return None if raw is None else TrainConfig.from_dict(raw)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"not a configuration of this version ({error})",
            file=location,
            fix="choose another --name; or remove the file, and the run goes on as this command "
            "says, as another run in MLflow",
        ) from None


@contextlib.contextmanager
def _usable(location: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"a run cannot be kept here ({error.strerror or error})",
            file=location,
            fix="pass as --storage a directory, or the URL of a bucket, that can be written to",
        ) from None


def write_again(directory: str, config: TrainConfig) -> None:
    """Store the configuration once more, where it is.

    Raises:
        OSError: the storage takes nothing, or is an empty place, where a run would begin anew.
        InputError: the disk is full, or the bucket does not take it.
    """
    location = storage.join(directory, "config.json")
    if not storage.exists(location):
        raise FileNotFoundError(location)
    storage.write_json(location, config.to_dict())


def open_run(config: TrainConfig, dataset: Dataset, directory: str, resumed: bool) -> str:
    """Start the MLflow run, or find it again; its id."""
    labels, version = dataset.label_version(config.labels)
    if resumed:
        with contextlib.suppress(OSError):  # `train` waits for the storage
            checkpoints.mend(directory)
    checkpoint = checkpoints.latest(directory) if resumed else None
    return runs.open_run(
        experiment=config.experiment,
        name=config.run_name,
        key=directory,
        resume=resumed,
        params={**config.flat(), "labels": labels, "num_classes": len(dataset.classes)},
        tags={
            "code_hash": session.code_hash(),
            "package_version": preflight.version(_DISTRIBUTION),
            "ray_job_id": session.job_id(),
            "world_size": config.workers,
            **({"resumed_from": checkpoint} if checkpoint else {}),
            "dataset_digest": dataset.digest,
            "classes_sha256": dataset.classes.sha256,
            "mlflow.source.name": "jobs/train_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=config.to_dict(),
        inputs=[
            (split, storage.join(config.dataset, file.path), file.sha256)
            for split, file in version.splits.items()
            if split in ("train", VALIDATION)
        ],
    )
