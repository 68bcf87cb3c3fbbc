"""Make a checkpoint an MLflow LoggedModel, with signature, example request and metrics.

A training's best checkpoint becomes one by link: a few small files that name it, so that no weights
are uploaded and nothing is loaded. A model that is registered has its weights with it.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
import sharding
from pipeline import storage
from pipeline.cluster import checkpoints
from pipeline.inference import locate
from pipeline.inference.predictor import OWN_THRESHOLDS, TOP_K
from pipeline.models import checkpoint, model_card, operating_points
from pipeline.tables import spaced
from pipeline.tracking.client import dataset_of_metric, datasets_of, mlflow_client
from pipeline.tracking.errors import mlflow_errors
from sharding.errors import InputError
from sharding.log import first_line, info
from sharding.storage import locks

_PACKAGES = (pipeline, sharding)
"""A served model brings its own copy of our code."""
_REQUIREMENTS = (
    *("mlflow", "numpy", "pandas", "pillow", "pyarrow", "requests", "simplejpeg"),
    *("torch", "torchvision", "tyro"),
)
"""Imports of a served model, by name on the package index."""
_TAGS_OF_RUN = ("labels", "licence", "method", "preset")
_NO_SUCH_ENDPOINT = (404, 405, 501)
_EXAMPLE_SIDE = 64
"""Pixels of the example request's image."""


def log_links(run_id: str, checkpoint_directories: Iterable[str]) -> None:
    """Make checkpoints of a finished training LoggedModels of its run; warn once of what fails.

    A checkpoint that cannot be read costs its own model only.
    """
    lost = []
    try:
        for directory in checkpoint_directories:
            try:
                _ = checkpoint.read_meta(directory).train_config
            except (OSError, InputError) as error:
                reason = getattr(error, "problem", "") or first_line(error)
                lost.append(f"{directory} ({reason})")
            else:
                log_model(run_id, directory, copy=False)
    except InputError as error:  # the training itself is done and kept
        lost.append(str(error))
    if lost:
        info(f"MLflow: no model of {'; of '.join(lost)}", "WARNING")


def log_model(run_id: str, checkpoint_directory: str, *, copy: bool) -> str:
    """Make a checkpoint a LoggedModel of a run, once; ``mlflow models serve`` can run it.

    The run's metrics of the checkpoint's step (images seen) are linked to it, each with the data
    set it was measured on.

    Args:
        run_id: the run that made the checkpoint.
        checkpoint_directory: path or URL.
        copy: upload the weights, so that the model outlives the checkpoint. A model that is
            there as a link gets them added.

    Returns:
        The model id; its URI is ``models:/<model id>``.

    Raises:
        InputError: the checkpoint is none, or MLflow does not take the model.
    """
    with locate.still_there(checkpoint_directory):
        meta = checkpoints.validated_meta(checkpoint_directory)
        with mlflow_errors("MLflow does not take the model"):
            client = mlflow_client()
            model = _find(client, run_id, checkpoint_directory)
            if model is None:
                model = _create(client, run_id, checkpoint_directory, meta)
            if copy and model.tags.get("weights") != "copied":
                _upload(client, model.model_id, checkpoint_directory)
                client.set_logged_model_tags(model.model_id, {"weights": "copied"})
            return str(model.model_id)


def find(run_id: str, checkpoint_directory: str) -> str | None:
    """Find the id of the LoggedModel of a run's checkpoint; None where there is none.

    A server without such models, as those of MLflow 2 are, is only said to have none.
    """
    with mlflow_errors("the models of a run cannot be read"):
        from mlflow.exceptions import MlflowException

        try:
            model = _find(mlflow_client(), run_id, checkpoint_directory)
        except MlflowException as error:
            if error.get_http_status_code() not in _NO_SUCH_ENDPOINT:
                raise
            info("MLflow: the server has no logged models; results are linked to none", "WARNING")
            return None
    return None if model is None else str(model.model_id)


def _find(client: Any, run_id: str, checkpoint_directory: str) -> Any | None:
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models(
        experiment_ids=[experiment], filter_string=f"source_run_id = '{run_id}'"
    )
    for model in models:
        if model.tags.get("checkpoint") == checkpoint_directory and model.status == "READY":
            return model
    return None


def _create(client: Any, run_id: str, checkpoint_directory: str, meta: checkpoint.Meta) -> Any:
    """Create the model with everything but the weights, which it links to."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        # MLflow allows neither dots nor slashes here.
        name=re.sub(r"[^\w-]", "-", f"{meta.train_config.run_name}-epoch-{meta.epoch}"),
        source_run_id=run_id,
        params=_params(meta),
        tags={
            **{tag: run.data.tags[tag] for tag in _TAGS_OF_RUN if tag in run.data.tags},
            "classes_sha256": meta.classes_sha256,
            "dataset_digest": meta.dataset_digest,
            "checkpoint": checkpoint_directory,
            "weights": "linked",
            "mlflow.note.content": spaced(model_card.card(meta)),
        },
    )
    with tempfile.TemporaryDirectory() as scratch:
        _write_files(Path(scratch, "model"), model, run_id, checkpoint_directory, meta)
        client.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=meta.images_seen)])
    _link_metrics(client, run, model.model_id, meta.images_seen)
    return client.finalize_logged_model(model.model_id, "READY")


def _upload(client: Any, model_id: str, checkpoint_directory: str) -> None:
    """Upload the weights to the link's folder."""
    with tempfile.TemporaryDirectory() as scratch:
        # The one that makes it a checkpoint comes last.
        for file in ("model.pt", *_thresholds_in(checkpoint_directory), "meta.json"):
            path = Path(checkpoint_directory, file)
            if "://" in checkpoint_directory:
                path = Path(scratch, file)
                with locks.scratch_space(), open(path, "wb") as copy:
                    copy.writelines(storage.stream(storage.join(checkpoint_directory, file)))
            client.log_model_artifact(model_id, str(path), locate.IN_MODEL)


def add_thresholds(model_id: str, checkpoint_directory: str) -> None:
    """Upload a checkpoint's new thresholds to its model, if that has the weights with it.

    Raises:
        InputError: MLflow does not take them.
    """
    with mlflow_errors("MLflow does not take the thresholds"):
        client = mlflow_client()
        if client.get_logged_model(model_id).tags.get("weights") != "copied":
            return  # a linked one reads the checkpoint's
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, operating_points.FILE)
            path.write_bytes(storage.read_bytes(operating_points.path_in(checkpoint_directory)))
            client.log_model_artifact(model_id, str(path), locate.IN_MODEL)


def _thresholds_in(checkpoint_directory: str) -> list[str]:
    there = storage.exists(operating_points.path_in(checkpoint_directory))
    return [operating_points.FILE] if there else []


def _link_metrics(client: Any, run: Any, model_id: str, step: int) -> None:
    """Link the run's metrics of this step to the model, each with its data set."""
    from mlflow.entities import Metric

    datasets = datasets_of(run)
    run_id = run.info.run_id
    linked = [
        Metric(
            key,
            point.value,
            point.timestamp,
            step,
            model_id=model_id,
            run_id=run_id,
            **dataset_of_metric(key, datasets),
        )
        for key in run.data.metrics
        if not key.startswith("system/")  # their steps are no images
        for point in client.get_metric_history(run_id, key)
        if point.step == step
    ]
    if linked:
        client.log_batch(run_id, metrics=linked)


def _params(meta: checkpoint.Meta) -> dict[str, str]:
    config = meta.train_config
    return {
        "method": config.method,
        "backbone": config.model.backbone,
        "alpha": f"{config.model.alpha_infer:g}",
        "image_size": str(config.data.image_size),
        "epoch": str(meta.epoch),
        "classes": str(len(meta.mids)),
    }


def _write_files(
    path: Path, model: Any, run_id: str, checkpoint_directory: str, meta: checkpoint.Meta
) -> None:
    """Write the files of an MLflow model into a new directory: our code and a link to the weights.

    Args:
        path: directory to make.
        model: the LoggedModel that the files are for.
        run_id: the run that made the checkpoint.
        checkpoint_directory: path or URL of the weights.
        meta: the checkpoint's.
    """
    import mlflow
    from mlflow.models import Model

    directory = path.parent / Path(locate.IN_MODEL).name
    directory.mkdir()
    link = json.dumps({"checkpoint": checkpoint_directory})
    (directory / locate.LINK).write_text(link + "\n", encoding="utf-8")
    with warnings.catch_warnings(record=True):  # MLflow would like another kind of signature
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                model_id=model.model_id,
                run_id=run_id,
            ),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={directory.name: str(directory)},
            code_paths=[str(Path(package.__file__ or "").parent) for package in _PACKAGES],
            signature=_signature(),
            input_example=_example(),
            pip_requirements=_requirements(meta.train_config.model.backbone),
        )
    (path / "README.md").write_text(model_card.card(meta), encoding="utf-8")


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    label = Object(
        [
            Property("mid", DataType.string),
            Property("name", DataType.string),
            Property("score", DataType.double),
            Property("probability", DataType.double),
        ]
    )
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema(
            [
                ColSpec(Array(label), "labels"),
                ColSpec(DataType.string, "error", required=False),
                ColSpec(DataType.string, "thresholds", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("top_k", DataType.long, TOP_K),
                ParamSpec("threshold", DataType.double, OWN_THRESHOLDS),
            ]
        ),
    )


def _example() -> Any:
    """Make an example request: a grey ramp as JPEG."""
    import pandas as pd
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((_EXAMPLE_SIDE, _EXAMPLE_SIDE)).save(file, "JPEG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})


def _requirements(backbone: str) -> list[str]:
    names = [*_REQUIREMENTS, *(["timm"] if backbone.startswith("timm/") else [])]
    return [f"{name}=={metadata.version(name)}" for name in names]
