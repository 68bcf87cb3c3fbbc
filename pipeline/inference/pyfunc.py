"""Serve a checkpoint as an MLflow pyfunc model: encoded images in, labels with scores out.

MLflow executes this file as the model's code, with a copy of our packages beside it; neither Ray
nor DALI is needed where it runs.

    curl localhost:5001/invocations -H 'Content-Type: application/json' \\
      -d "{\\"dataframe_records\\": [{\\"image\\": \\"$(base64 -w0 street.jpg)\\"}]}"
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

import mlflow
import pandas as pd

from pipeline.inference import locate
from pipeline.inference.predictor import OWN_THRESHOLDS, TOP_K, Prediction, Predictor
from pipeline.models import checkpoint, operating_points
from sharding.errors import InputError, MachineError

REQUEST_SECONDS = 60.0
"""Within which a request is answered; pictures not reached by then are errors."""
_URL_SAFE = str.maketrans("-_", "+/")


class CamPyfuncModel(mlflow.pyfunc.PythonModel):
    """Answer a table with a column ``image`` (base64) with one list of labels per row.

    Parameters of a request: ``top_k`` labels at most (0: all), each with at least the probability
    ``threshold``; by -1, the default, each class's own threshold decides where the model has them,
    and ``thresholds`` says so. A row whose picture cannot be read has an ``error`` and no
    labels.
    """

    def load_context(self, context: Any) -> None:
        """Load the checkpoint among the model's artifacts, or the one that they link to."""
        directory = locate.in_model(context.artifacts["checkpoint"])
        model, meta = checkpoint.load_model(directory)
        points = operating_points.read(directory, meta.classes_sha256)
        self.predictor = Predictor(model, meta, points=points)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """List ``{"labels": [{"mid", "name", "score", "probability"}]}`` per image, best first."""
        deadline = time.monotonic() + REQUEST_SECONDS
        try:
            top_k, threshold = _options(params or {})
            images = [_image(value) for value in model_input["image"]]
            found = self.predictor.predict_each(images, deadline)
            if found and all(isinstance(answer, InputError) for answer in found):
                raise InputError(f"row 1: {found[0]}")
        except MachineError:  # a fault of the server, indeed
            raise
        except InputError as error:
            # Any other kind would be answered as a fault of the server.
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        return [_answer(answer, top_k, threshold) for answer in found]


def _options(params: Mapping[str, Any]) -> tuple[int, float | None]:
    """Read ``top_k`` and ``threshold`` of a request; None for the model's own thresholds.

    Raises:
        InputError: one is out of range.
    """
    top_k, threshold = params.get("top_k", TOP_K), params.get("threshold", OWN_THRESHOLDS)
    if top_k < 0:
        raise InputError(f"top_k is {top_k}", fix="pass 0 (all labels) or more")
    if not (0 <= threshold <= 1 or threshold == OWN_THRESHOLDS):
        fix = f"pass a probability, in [0, 1], or {OWN_THRESHOLDS:g} for each class's own"
        raise InputError(f"threshold is {threshold}", fix=fix)
    return int(top_k), None if threshold == OWN_THRESHOLDS else float(threshold)


def _answer(found: Prediction | InputError, top_k: int, threshold: float | None) -> dict[str, Any]:
    if isinstance(found, InputError):
        return {"labels": [], "error": str(found)}
    labels = [
        {
            "mid": label.mid,
            "name": label.name,
            "score": label.score,
            "probability": label.probability,
        }
        for label in found.present(threshold, top_k or None)
    ]
    own = threshold is None and found.points is not None
    return {"labels": labels, **({"thresholds": str(found.points)} if own else {})}


def _image(value: Any) -> bytes | InputError:
    """Decode base64, also in lines, URL-safe, or of a data URL."""
    try:
        if not isinstance(value, str):
            raise TypeError(f"but {type(value).__name__}")
        body = value.rpartition(";base64,")[2] if value.startswith("data:") else value
        body = "".join(body.split()).translate(_URL_SAFE).rstrip("=")
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (ValueError, TypeError) as error:
        return InputError(f"image is not base64 ({error})", fix="encode the file with base64 -w0")


mlflow.models.set_model(CamPyfuncModel())
