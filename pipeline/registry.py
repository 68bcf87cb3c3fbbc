"""Models in MLflow: logged with signature and metrics, registered, found again, served."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
import sharding
from pipeline import checkpoint, locate
from pipeline import trackingstore as store
from pipeline.predictor import THRESHOLD, TOP_K
from sharding.errors import InputError

BEST = "best"
# A served model brings its own copy of our code.
PACKAGES = (pipeline, sharding)
# What a served model imports, by name on the package index.
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pyarrow", "torch", "torchvision")
_PICTURE_SIDE = 64


def log_model(run_id: str, checkpoint_directory: str) -> str:
    """Upload a checkpoint as the run's LoggedModel that `mlflow models serve` can run.

    The run's metrics of the checkpoint's step (images seen) are linked to it.

    Returns:
        The model id; its URI is ``models:/<model id>``.

    Raises:
        InputError: the checkpoint is none, or MLflow does not take the model.
    """
    meta = checkpoint.read_meta(checkpoint_directory)
    with tempfile.TemporaryDirectory() as scratch, _one_line():
        directory = Path(scratch, Path(locate.IN_MODEL).name)
        directory.mkdir()
        for file in ("meta.json", "model.pt"):
            shutil.copyfile(Path(checkpoint_directory, file), directory / file)
        client = store.client()
        model = client.create_logged_model(
            client.get_run(run_id).info.experiment_id,
            # MLflow allows neither dots nor slashes here.
            name=re.sub(r"[^\w-]", "-", f"{meta.train_config.run_name}-epoch-{meta.epoch}"),
            source_run_id=run_id,
            params=_params(meta),
            tags={"classes_sha256": meta.classes_sha256, "dataset_digest": meta.dataset_digest},
        )
        _log(run_id, model.model_id, directory, meta)
        return model.model_id


def register(
    model_id: str, name: str, metrics: Mapping[str, float], compared_by: str, run_id: str
) -> str:
    """Make a LoggedModel the next version of a registered model; return the version.

    The alias ``best`` moves to it unless the version that has it scored higher.

    Args:
        model_id: from `log_model`.
        name: of the registered model, made if missing.
        metrics: of the model.
        compared_by: the metric that decides; versions without it lose.
        run_id: the evaluation that judged the model.
    """
    import mlflow
    from mlflow.entities import LoggedModelInput

    with _one_line():
        client = store.client()
        mlflow.set_tracking_uri(store.tracking_uri())
        value = metrics.get(compared_by)
        tags = {} if value is None else {compared_by: f"{value:.6f}"}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=tags).version
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
        best = _score_of(client, name, compared_by)
        if best is None or (value is not None and value >= best):
            client.set_registered_model_alias(name, BEST, version)
        return str(version)


def download(uri: str) -> str:
    """A local copy of the MLflow model ``models:/...``.

    Raises:
        InputError: there is none.
    """
    from mlflow import artifacts, set_registry_uri, set_tracking_uri

    store.client()
    for setting in (set_tracking_uri, set_registry_uri):
        setting(store.tracking_uri())
    try:
        return str(artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"no model {uri} ({_first_line(error)})",
            file=store.tracking_uri(),
            fix="name a registered model, or set MLFLOW_TRACKING_URI",
        ) from None


def run_directory(uri: str) -> str:
    """Where the model of ``runs:/<run id>`` is: a training's directory, an evaluated checkpoint.

    Raises:
        InputError: there is no such run, or it is not one of ours.
    """
    run_id = uri.removeprefix("runs:/").partition("/")[0]
    try:
        tags = store.client().get_run(run_id).data.tags
        return tags["checkpoint"] if "checkpoint" in tags else tags["run_key"]
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"no run {run_id!r} of ours ({_first_line(error)})",
            file=store.tracking_uri(),
            fix="name a training's or an evaluation's run id, or set MLFLOW_TRACKING_URI",
        ) from None


def _log(run_id: str, model_id: str, directory: Path, meta: checkpoint.Meta) -> None:
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(store.tracking_uri())
    with warnings.catch_warnings(record=True):  # MLflow would like another kind of signature
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            model_id=model_id,
            run_id=run_id,
            step=meta.images_seen,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={directory.name: str(directory)},
            code_paths=[str(Path(package.__file__ or "").parent) for package in PACKAGES],
            signature=_signature(),
            input_example=_example(),
            pip_requirements=_requirements(meta.train_config.model.backbone),
        )


def _params(meta: checkpoint.Meta) -> dict[str, str]:
    config = meta.train_config
    told = {
        "method": config.method,
        "backbone": config.model.backbone,
        "alpha": f"{config.model.alpha_infer:g}",
        "image_size": config.data.image_size,
        "epoch": meta.epoch,
        "classes": len(meta.mids),
    }
    return {key: str(value) for key, value in told.items()}


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
        outputs=Schema([ColSpec(Array(label), "labels")]),
        params=ParamSchema(
            [
                ParamSpec("top_k", DataType.long, TOP_K),
                ParamSpec("threshold", DataType.double, THRESHOLD),
            ]
        ),
    )


def _example() -> Any:
    """A request that shows the shape of one: a grey ramp as JPEG."""
    import pandas as pd
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((_PICTURE_SIDE, _PICTURE_SIDE)).save(file, "JPEG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})


def _requirements(backbone: str) -> list[str]:
    names = [*_REQUIREMENTS, *(["timm"] if backbone.startswith("timm/") else [])]
    return [f"{name}=={metadata.version(name)}" for name in names]


def _score_of(client: Any, name: str, metric: str) -> float | None:
    """The metric of the version that is the best so far; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_model_version_by_alias(name, BEST).tags
    except MlflowException:
        return None
    return float(tags[metric]) if metric in tags else None


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn whatever MLflow raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # every backend raises its own kinds
        raise InputError(
            f"MLflow does not take the model ({_first_line(error)})",
            file=store.tracking_uri(),
            fix="start the server, or set MLFLOW_TRACKING_URI",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
