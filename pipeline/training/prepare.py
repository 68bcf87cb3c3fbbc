"""Check input and resources on the driver, and claim the run's name, before a worker starts.

Ray retries a worker that raises, so all is checked here that can be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.cluster import checkpoints, lease, own_run, placement, preflight, session, tasks
from pipeline.config import precision
from pipeline.config.train import TrainConfig, differences
from pipeline.data import profile
from pipeline.data.staging import Cache, open_dataset
from pipeline.models.checkpoint import Meta, read_meta
from pipeline.tracking import runs
from sharding.errors import InputError, command
from sharding.log import info
from sharding.manifest import Dataset

_CONFIG = "config.json"  # in the run's directory
VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A run of which everything is checked that needs neither torch nor a cluster.

    Attributes:
        config: with absolute paths, label version and precision named.
        dataset: its small files.
        directory: the run's, path or URL.
        resumed: whether the run existed.
    """

    config: TrainConfig
    dataset: Dataset
    directory: str
    resumed: bool

    @property
    def latest(self) -> Meta | None:
        """Describe the checkpoint that training goes on from; None where it begins."""
        name = checkpoints.latest(self.directory) if self.resumed else None
        return None if name is None else read_meta(storage.join(self.directory, name))


@dataclass(frozen=True, kw_only=True)
class Prepared(Checked):
    """A run that can start.

    Attributes:
        use_gpu, cpus: of each worker.
        preset: name of the one that the configuration began from, "" if none.
    """

    use_gpu: bool
    cpus: int
    preset: str = ""

    def on_one_worker(self, work: Callable[..., Any], label: str) -> Any:
        """Call ``work`` for the first rank with a worker's resources; nothing is kept."""
        call = functools.partial(work, self.config, self.cpus, self.use_gpu)
        resources = {"num_cpus": self.cpus, "num_gpus": int(self.use_gpu)}
        (result,) = tasks.run_tasks(call, [0], label=label, **resources)
        return result

    def write_again(self) -> None:
        """Rewrite the run's configuration in place, to test whether the storage takes bytes.

        Raises:
            OSError: it does not, or is an empty place, where a run would begin anew.
            InputError: the disk is full, or the bucket does not take it.
        """
        location = storage.join(self.directory, _CONFIG)
        if not storage.exists(location):
            raise FileNotFoundError(location)
        storage.write_json(location, self.config.to_dict())


def check(config: TrainConfig) -> Checked:
    """Check the files of a configuration, and whether its run may begin; nothing is written.

    Raises:
        InputError: the dataset or the run's directory is not what it says.
        Held: a process of this machine trains it.
    """
    if not config.dataset:
        raise InputError("no dataset", fix=f"pass --dataset DIR (made by {command('shard')})")
    config = located(config)
    dataset = open_cached(config, tars=False)
    directory = storage.join(config.storage, config.run_name)
    config = settled(config, dataset, directory)
    if config.method == "full" and not dataset.is_complete(config.labels):
        problem = f"labels {config.labels!r} are partial, and method 'full' wants every one"
        raise InputError(problem, fix="pass --method ll-r, or name complete --labels")
    resumed = claim(directory, config, dataset.digest, write=False)
    lease.refuse_local(directory)
    return Checked(config=config, dataset=dataset, directory=directory, resumed=resumed)


def prepare(
    run: Checked, preset: str = "", meanwhile: Callable[[], object] = lambda: None
) -> Prepared:
    """Check what the workers will build, then join or start Ray; find the workers' share of it.

    Args:
        run, preset: see `Prepared`.
        meanwhile: work to do while Ray starts.

    Raises:
        InputError: the dataset, the configuration or the cluster cannot carry the run, or its
            directory cannot be written to.
    """
    with lease.refusals(run.directory):
        storage.check_writable(run.directory)
    _check(run.config, run.dataset)
    session.connect_while(meanwhile)
    use_gpu, cpus = worker_resources(run.config, stored(run.config) if run.resumed else None)
    config = dataclasses.replace(run.config, cpus_per_worker=cpus)  # which a resumed run has again
    checked = {**vars(run), "config": config}
    return Prepared(**checked, use_gpu=use_gpu, cpus=cpus, preset=preset)


def located(config: TrainConfig) -> TrainConfig:
    """Make every path of a configuration absolute: workers run in directories of their own."""
    model = config.model
    if model.weights is not None and Path(model.weights).expanduser().is_file():
        model = dataclasses.replace(model, weights=storage.absolute(model.weights))
    return dataclasses.replace(
        config,
        dataset=storage.absolute(config.dataset),
        storage=storage.absolute(config.storage),
        method_options=storage.absolute_in(config.method_options),
        model=model,
    )


def stored(config: TrainConfig) -> TrainConfig | None:
    """Read with which configuration the run of this name began; None if it has not.

    Raises:
        InputError: the file is damaged or of another version.
    """
    return _stored(storage.join(config.storage, config.run_name, _CONFIG))


def open_cached(
    config: TrainConfig, *, tars: bool | Collection[str] = ("train", VALIDATION)
) -> Dataset:
    """Open the dataset of a run; one in a bucket is copied to this node's cache.

    Args:
        config: of the run.
        tars: as of `open_dataset`; training reads no test image.
    """
    cache, confidences = Cache.of(vars(config)), config.confidences
    return open_dataset(config.dataset, cache, tars=tars, confidences=confidences)


def settled(config: TrainConfig, dataset: Dataset, directory: str) -> TrainConfig:
    """Name label version and precision: those asked for, the run's, or in a new run the defaults.

    The dataset's default, and the machine, may change between two commands of a run.
    """
    stored = _stored(storage.join(directory, _CONFIG))
    labels, _ = dataset.label_version(config.labels or (stored.labels if stored else None))
    return precision.settled(dataclasses.replace(config, labels=labels), stored)


def _check(config: TrainConfig, dataset: Dataset) -> None:
    """Build what every worker will build, to fail here first."""
    from pipeline import methods
    from pipeline.data.labels import confidences_of, labels_of
    from pipeline.data.loader import Loader
    from pipeline.models import cam_net
    from pipeline.training import distributed

    if not (config.run_name.isascii() and config.run_name.isprintable()):
        raise InputError(
            f"run name {config.run_name!r}", fix="choose letters, digits and signs of ASCII"
        )  # Ray's metrics take no others, and it would start workers again for ever
    table = labels_of(dataset, "train", config.labels)
    if config.confidences is not None:
        found, ignored = confidences_of(dataset, "train", config.confidences, table)
        said = f"{len(found.classes_E):,} confidences {config.confidences} of unlabelled entries"
        info(f"{said}; {ignored:,} of labelled ones are ignored")
    read = ["train"]
    if VALIDATION in dataset.label_version(config.labels)[1].splits:
        labels_of(dataset, VALIDATION, config.labels)
        read.append(VALIDATION)
    if "://" not in config.dataset:  # the workers copy the images of a URL themselves
        for split in read:
            Loader.of_split(dataset, split, batch_size=1, image_size=1)
    mids, images = dataset.classes.mids, len(table)
    distributed.check(config.parallel, methods.create_for(config, mids=mids, num_images=images))
    cam_net.build(config.model, 1, config.data.image_size)


def worker_resources(config: TrainConfig, begun: TrainConfig | None = None) -> tuple[bool, int]:
    """Choose (use GPUs, CPUs per worker); InputError if they do not fit: Ray would only wait.

    Args:
        config: of the command.
        begun: with which the run began, of as many CPUs unless others are asked for.
    """
    fewest, most = config.worker_range
    # Room for the task that validates meanwhile, if there is any.
    most += config.async_validation
    use_gpu, cpus = session.place(fewest, most, config.cpus_per_worker, config.wait_for_workers)
    if begun and config.cpus_per_worker is None and begun.workers == config.workers:
        needed = most if config.async_validation else fewest
        cpus = placement.kept_cpus(session.nodes(), needed, begun.cpus_per_worker) or cpus
    if config.model.sync_batchnorm and not use_gpu:
        info("--sync-batchnorm is for GPUs: each worker keeps statistics of its own", "WARNING")
    if config.model.sync_batchnorm and config.model.compile and use_gpu:
        info("--sync-batchnorm cuts what --compile compiles into pieces: leave one out", "WARNING")
    return use_gpu, cpus


def claim(directory: str, config: TrainConfig, digest: str, *, write: bool = True) -> bool:
    """Write the run's configuration, or check that it is the one already stored.

    Args:
        directory: of the run.
        config: of the command.
        digest: of the dataset, which may lie elsewhere now (`Dataset.digest`).
        write: whether the run begins; else it is only checked.

    Returns:
        Whether the run existed.

    Raises:
        InputError: a run of this name with another configuration, or one that cannot be read; the
            storage cannot be read or written.
    """
    location = storage.join(directory, _CONFIG)
    stored = _stored(location)
    changed = differences(stored, config) if stored is not None else {}
    if "dataset" in changed and _trained_on(directory) in (None, digest):
        del changed["dataset"]
    if changed:
        changes = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        raise InputError(
            f"run {config.run_name!r} exists with another configuration ({changes})",
            file=location,
            fix="repeat the first command to resume, or choose another --run",
        )
    if write:
        with lease.refusals(location):
            storage.write_json(location, config.to_dict())
    return stored is not None


def _trained_on(directory: str) -> str | None:
    """Look up the digest of the dataset of a run's latest checkpoint; None if it has none."""
    name = checkpoints.latest(directory)
    return None if name is None else read_meta(storage.join(directory, name)).dataset_digest


def _stored(location: str) -> TrainConfig | None:
    """Read the configuration of a run; None if it has not begun."""
    try:
        with lease.refusals(location):
            raw = storage.read_json(location)
        return None if raw is None else TrainConfig.from_dict(raw)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"not a configuration of this version ({error})",
            file=location,
            fix="choose another --run; or remove the file, and the run goes on as this command "
            "says, as another run in MLflow",
        ) from None


def open_run(run: Prepared) -> str:
    """Create the MLflow run, or find it again; return its id."""
    from pipeline.methods import complete_options

    config, dataset = run.config, run.dataset
    splits = dataset.label_version(config.labels)[1].splits
    read = [split for split in ("train", VALIDATION) if split in splits]
    if run.resumed:
        with contextlib.suppress(OSError):  # `train` waits for the storage
            checkpoints.repair(run.directory)
    checkpoint = checkpoints.latest(run.directory) if run.resumed else None
    found = own_run.find(run.directory) if run.resumed else own_run.Found()
    options = {f"method_options.{n}": value for n, value in complete_options(config).items()}
    facts = {"preset": run.preset or None, "num_classes": len(dataset.classes)}
    run_id = runs.open_run(
        experiment=config.experiment,
        name=config.run_name,
        key=run.directory,
        resume=found.by_path,
        own=found.run_id,
        params={**config.flat(), **options, **facts},
        tags={
            "code_hash": session.code_hash(),
            "package_version": preflight.version("openimages-boostlu"),
            "ray_job_id": session.job_id(),
            "world_size": config.workers,
            **({"preset": run.preset} if run.preset else {}),
            **({"resumed_from": checkpoint} if checkpoint else {}),
            **({"copied_from": found.copied_from} if found.copied_from else {}),
            **profile.tags(dataset, config.labels, config),
            "mlflow.source.name": "jobs/train_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=config.to_dict(),
        inputs=profile.inputs(dataset, config.dataset, config.labels, read),
    )
    own_run.keep(run.directory, run_id, found)
    return run_id
