"""The files of an MLflow model: our code, a link to the weights, the shape of a request."""

from __future__ import annotations

import base64
import io
import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
import sharding
from pipeline import checkpoint, locate
from pipeline.predictor import THRESHOLD, TOP_K

# A served model brings its own copy of our code.
PACKAGES = (pipeline, sharding)
# What a served model imports, by name on the package index.
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pyarrow", "torch", "torchvision")
_PICTURE_SIDE = 64


def save(
    path: Path, model: Any, run_id: str, checkpoint_directory: str, meta: checkpoint.Meta
) -> None:
    """Write everything but the weights, which are named.

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
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={directory.name: str(directory)},
            code_paths=[str(Path(package.__file__ or "").parent) for package in PACKAGES],
            signature=_signature(),
            input_example=_example(),
            pip_requirements=_requirements(meta.train_config.model.backbone),
        )


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
