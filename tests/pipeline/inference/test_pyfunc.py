"""The served model: options in range, every usual spelling of base64, an answer for each row."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

import pipeline
from pipeline.inference import pyfunc
from tests.support.models import write_checkpoint
from tests.support.photos import encode, photo

JPEG = encode(photo(300, 201))
GOOD = base64.b64encode(JPEG).decode()


@pytest.fixture(scope="module")
def served(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> pyfunc.CamPyfuncModel:
    model = pyfunc.CamPyfuncModel()
    model.predictor = pipeline.load(
        str(write_checkpoint(tmp_path_factory.mktemp("served") / "checkpoint", squares))
    )
    return model


def ask(served: pyfunc.CamPyfuncModel, *images: Any, **params: Any) -> list[dict[str, Any]]:
    return served.predict(None, pd.DataFrame({"image": list(images)}), params)


@pytest.mark.parametrize(
    "spelling",
    [
        f"data:image/jpeg;base64,{GOOD}",
        base64.encodebytes(JPEG).decode(),
        base64.urlsafe_b64encode(JPEG).decode(),
        GOOD.rstrip("="),
    ],
)
def test_base64_as_it_comes(served: pyfunc.CamPyfuncModel, spelling: Any) -> None:
    first, second = ask(served, GOOD, spelling)
    assert first == second


def test_a_bad_row_among_good_ones_has_an_error_of_its_own(served: pyfunc.CamPyfuncModel) -> None:
    noise = base64.b64encode(b"nonsense").decode()
    good, *bad, last = ask(served, GOOD, noise, "%%%", None, GOOD)
    assert good == last
    assert len(good["labels"]) == 5
    assert [row["labels"] for row in bad] == [[], [], []]
    assert all(row["error"] for row in bad)
    with pytest.raises(mlflow.MlflowException, match="row 1: image bytes: not an image"):
        ask(served, noise)
    assert ask(served) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_k": -1}, "top_k is -1"),
        ({"threshold": 7}, "threshold is 7"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_options_out_of_range_are_refused(
    served: pyfunc.CamPyfuncModel, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(mlflow.MlflowException, match=message) as refused:
        ask(served, GOOD, **params)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_request_ends(served: pyfunc.CamPyfuncModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfunc, "REQUEST_SECONDS", -1.0)
    with pytest.raises(mlflow.MlflowException, match="not reached"):
        ask(served, GOOD)


def test_all_labels_on_demand(served: pyfunc.CamPyfuncModel) -> None:
    assert len(ask(served, GOOD, top_k=0)[0]["labels"]) == 8
