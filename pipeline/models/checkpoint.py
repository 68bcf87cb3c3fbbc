"""Write and read checkpoints, and refuse to use one with another class list.

A checkpoint is a directory: `model.pt` (weights, all that inference needs), `training.pt`
(trained weights, optimizer, method state) and `meta.json` (configuration, class list, provenance).
One written within an epoch also has `rank-N.pt` of every worker: its reader's position, its random
state, and what its method gathered.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.config.train import TrainConfig
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.log import first_line
from sharding.manifest import Dataset

if TYPE_CHECKING:  # a driver reads metas before anything imports torch
    import torch

    from pipeline.models import cam_net

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Meta:
    """Describe a checkpoint: everything but its tensors.

    Attributes:
        config: the run's configuration (`TrainConfig.to_dict`).
        epoch: epochs finished.
        step, epoch_images: steps done of the next epoch, and their images; 0 between epochs.
        images_seen: training images consumed so far over all workers.
        world_size: workers that wrote it.
        classes_sha256, mids, names: the class list the head was trained for, in index order.
        dataset, dataset_digest, labels: what it was trained on.
        data: what `pipeline.data.profile.facts` says of that; empty in older checkpoints.
        shards_sha256: `Dataset.shards_digest` of the training split; "" in older checkpoints.
        reader: what read it (`pipeline.data.dali.version_on`); "" in older checkpoints.
        mlflow_run_id: the run it belongs to, "" if none.
        metrics: validation metrics of this epoch.
    """

    config: Mapping[str, Any]
    epoch: int
    images_seen: int
    world_size: int
    classes_sha256: str
    mids: Sequence[str]
    names: Sequence[str]
    dataset: str
    dataset_digest: str
    labels: str
    shards_sha256: str = ""
    reader: str = ""
    step: int = 0
    epoch_images: int = 0
    mlflow_run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset, **others: Any) -> Meta:
        """Describe a checkpoint of a run; ``others`` are the fields that change within it."""
        return cls(
            config=config.to_dict(),
            classes_sha256=dataset.classes.sha256,
            mids=list(dataset.classes.mids),
            names=list(dataset.classes.names),
            dataset=config.dataset,
            dataset_digest=dataset.digest,
            labels=dataset.label_version(config.labels)[0],
            **others,
        )

    @property
    def train_config(self) -> TrainConfig:
        """The configuration as an object."""
        try:
            return TrainConfig.from_dict(self.config)
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"the checkpoint's configuration is not of this version ({error})",
                fix="use the version that trained it",
            ) from None

    def check_classes(self, classes: ClassTable, checkpoint: str | Path) -> None:
        """Refuse a dataset whose class list is not the checkpoint's.

        Raises:
            InputError: naming both lists.
        """
        if classes.sha256 != self.classes_sha256:
            raise InputError(
                f"checkpoint of class list {self.classes_sha256[:12]} ({len(self.mids)} classes), "
                f"dataset of class list {classes.sha256[:12]} ({len(classes)} classes)",
                file=checkpoint,
                fix=f"use the dataset it was trained on, {self.config.get('dataset', 'unknown')}, "
                "or make this one with that class list",
            )

    def check_maps(self, checkpoint: str | Path) -> None:
        """Refuse to draw or count the maps of a network that has none.

        Raises:
            InputError: naming the checkpoint.
        """
        if self.train_config.model.head != "cam":
            from pipeline.models.ml_decoder import no_maps

            raise no_maps(checkpoint)

    def check_labels(self, labels: str, checkpoint: str | Path) -> None:
        """Refuse to go on training with labels that are not the checkpoint's.

        Raises:
            InputError: naming both versions.
        """
        if labels != self.labels:
            raise InputError(
                f"checkpoint trained on labels {self.labels!r}, would go on with {labels!r}",
                file=checkpoint,
                fix="train on those labels under another --run",
            )

    def change(self, world_size: int, shards_sha256: str, reader: str) -> str | None:
        """Describe what changed since a run stopped here; None if nothing did.

        Within an epoch such a change means that the epoch begins again.

        Args:
            world_size: workers that go on.
            shards_sha256: `Dataset.shards_digest` of the training split.
            reader: what reads it from now on.
        """
        other_images = self.shards_sha256 not in ("", shards_sha256)
        stopped = f"epoch {self.epoch + 1} was left at step {self.step}"
        if not self.step:
            return f"training images are not those of epoch {self.epoch}" if other_images else None
        if other_images:
            return f"{stopped} with other training images; it begins again"
        if world_size != self.world_size:
            return f"{stopped} by {self.world_size} workers; {world_size} begin it again"
        if self.reader not in ("", reader):
            return f"{stopped} with {self.reader}; it begins again with {reader}"
        return None


def save(
    directory: str | Path,
    *,
    scored: Mapping[str, torch.Tensor],
    training: Mapping[str, Any],
    meta: Meta,
) -> None:
    """Write a checkpoint into an existing directory.

    Args:
        directory: where to.
        scored: weights for inference (a moving average's where there is one).
        training: state dicts of what is trained: "model", "optimizer", "method", "step".
        meta: everything else.
    """
    import torch

    path = Path(directory)
    torch.save(scored, path / "model.pt")
    torch.save(dict(training), path / "training.pt")
    raw = {"format": FORMAT, **dataclasses.asdict(meta)}
    (path / "meta.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def save_rank(directory: str | Path, rank: int, state: Mapping[str, Any]) -> None:
    """Write one worker's state within an epoch."""
    import torch

    torch.save(dict(state), Path(directory) / f"rank-{rank}.pt")


def load_rank(directory: str | Path, rank: int) -> dict[str, Any]:
    """Read one worker's state within an epoch, as `save_rank` got it."""
    return _load(directory, f"rank-{rank}.pt")


def read_meta(directory: str | Path) -> Meta:
    """Read `meta.json`.

    Args:
        directory: a local checkpoint or the URL of one, as for all functions that read.

    Raises:
        InputError: the directory is not a checkpoint.
    """
    path = storage.join(str(directory), "meta.json")
    try:
        raw = json.loads(storage.read_bytes(path))
        if raw.pop("format") != FORMAT:
            raise InputError(f"checkpoint is not of format {FORMAT}", file=path, fix="train again")
        return Meta(**raw)
    except FileNotFoundError:
        raise InputError(
            "not a checkpoint: meta.json is missing",
            file=directory,
            fix="pass a checkpoint directory or the run directory that holds several",
        ) from None
    except TypeError as error:  # a field more, or one less
        later = sorted(raw.keys() - {field.name for field in dataclasses.fields(Meta)})
        reason = f"it has {later[0]}, which this version does not know" if later else error
        raise InputError(
            f"not a checkpoint of this version ({reason})",
            file=path,
            fix="use the version that trained it",
        ) from None
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"meta.json is damaged ({error})", file=path, fix="use another checkpoint of the run"
        ) from None


def load_training(directory: str | Path) -> dict[str, Any]:
    """Read `training.pt`, as `save` got it."""
    return _load(directory, "training.pt")


def load_model(directory: str | Path) -> tuple[cam_net.CamNet, Meta]:
    """Load the network of a checkpoint in evaluation mode, and its `Meta`.

    Raises:
        InputError: the directory is not a checkpoint, or a file of it is missing or damaged.
    """
    meta = read_meta(directory)
    model = blank_model(meta)
    model.load_state_dict(_load(directory, "model.pt"))
    return model.eval(), meta


def blank_model(meta: Meta) -> cam_net.CamNet:
    """Make the network of a checkpoint without its weights."""
    from pipeline.models import cam_net

    # Initial weights will be replaced, and their file may be gone; compiling needs a compiler.
    config = dataclasses.replace(meta.train_config.model, weights=None, compile=False)
    return cam_net.build(config, len(meta.mids), meta.train_config.data.image_size)


def _load(directory: str | Path, name: str) -> Any:
    import torch

    path = storage.join(str(directory), name)
    try:
        file = io.BytesIO(storage.read_bytes(path)) if "://" in path else path
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            "checkpoint file is missing", file=path, fix="use another checkpoint of the run"
        ) from None
    except Exception as error:  # torch raises many kinds here; all mean the same to the user
        reason = first_line(error)
        raise InputError(
            f"checkpoint file is damaged ({reason})",
            file=path,
            fix="use another checkpoint of the run; without this directory its training goes on "
            "from the one before",
        ) from None
