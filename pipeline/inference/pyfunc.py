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
from pipeline.inference.predictor import THRESHOLD, TOP_K, Prediction, Predictor
from pipeline.models import checkpoint
from sharding.errors import InputError

REQUEST_SECONDS = 60.0
"""Within which a request is answered; pictures not reached by then are errors."""
_URL_SAFE = str.maketrans("-_", "+/")


class CamPyfuncModel(mlflow.pyfunc.PythonModel):
    """Answer a table with a column ``image`` (base64) with one list of labels per row.

    Parameters of a request: ``top_k`` labels at most (0: all), each with at least the probability
    ``threshold``. A row whose picture cannot be read has an ``error`` and no labels.
    """

    def load_context(self, context: Any) -> None:
        """Load the checkpoint among the model's artifacts, or the one that they link to."""
        directory = locate.in_model(context.artifacts["checkpoint"])
        self.predictor = Predictor(*checkpoint.load_model(directory))

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
        except InputError as error:
            # Any other kind would be answered as a fault of the server.
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        return [_answer(answer, top_k, threshold) for answer in found]


def _options(params: Mapping[str, Any]) -> tuple[int, float]:
    """Read ``top_k`` and ``threshold`` of a request.

    Raises:
        InputError: one is out of range.
    """
    top_k, threshold = params.get("top_k", TOP_K), params.get("threshold", THRESHOLD)
    if top_k < 0:
        raise InputError(f"top_k is {top_k}", fix="pass 0 (all labels) or more")
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}", fix="pass a probability, in [0, 1]")
    return int(top_k), float(threshold)


def _answer(found: Prediction | InputError, top_k: int, threshold: float) -> dict[str, Any]:
    if isinstance(found, InputError):
        return {"labels": [], "error": str(found)}
    labels = [
        {
            "mid": label.mid,
            "name": label.name,
            "score": label.score,
            "probability": label.probability,
        }
        for label in found.top(top_k or len(found.mids))
        if label.probability >= threshold
    ]
    return {"labels": labels}


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
