"""Serve a checkpoint as an MLflow pyfunc model: encoded images in, labels with scores out.

MLflow executes this file as the model's code, with a copy of our packages beside it; neither Ray
nor DALI is needed where it runs.

    curl localhost:5001/invocations -H 'Content-Type: application/json' \\
      -d "{\\"dataframe_records\\": [{\\"image\\": \\"$(base64 -w0 street.jpg)\\"}]}"
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import mlflow
import pandas as pd

from pipeline.inference import locate
from pipeline.inference.predictor import THRESHOLD, TOP_K, Predictor
from pipeline.models import checkpoint
from sharding.errors import InputError


class CamPyfuncModel(mlflow.pyfunc.PythonModel):
    """Answer a table with a column ``image`` (base64) with one list of labels per row.

    Parameters of a request: ``top_k`` labels at most, each with at least the probability
    ``threshold``.
    """

    def load_context(self, context: Any) -> None:
        """Load the checkpoint among the model's artifacts, or the one that they link to."""
        directory = locate.in_model(context.artifacts["checkpoint"])
        self.predictor = Predictor(*checkpoint.load_model(directory))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """List ``{"labels": [{"mid", "name", "score", "probability"}]}`` per image, best first."""
        chosen = {"top_k": TOP_K, "threshold": THRESHOLD, **(params or {})}
        try:
            images = [_decoded(text) for text in model_input["image"]]
            predictions = self.predictor.predict(images)
        except InputError as error:
            # Any other kind would be answered as a fault of the server.
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        return [
            {
                "labels": [
                    {
                        "mid": label.mid,
                        "name": label.name,
                        "score": label.score,
                        "probability": label.probability,
                    }
                    for label in prediction.top(int(chosen["top_k"]))
                    if label.probability >= chosen["threshold"]
                ]
            }
            for prediction in predictions
        ]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InputError(
            f"image is not base64 ({error})", fix="encode the file with base64 -w0"
        ) from None


mlflow.models.set_model(CamPyfuncModel())
