"""Export a checkpoint as safetensors, torch.export and ONNX; check each file against the model.

Normalisation and the whole head are inside the graphs: uint8 RGB pixels (B, S, S, 3) in, fp32
logits (B, K) out, any batch size. Every file, and `model.json`, records the class list and the
preprocessing that the caller does: squashing to S x S.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.cluster import checkpoints
from pipeline.models import cam_net, checkpoint, model_card, operating_points
from pipeline.models.operating_points import OperatingPoints
from sharding.errors import InputError
from sharding.log import first_line
from sharding.progress import say
from sharding.storage.files import full_disk_told, replacing

Scorer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest logit: fp32 sums in another order."""
_INPUT, _OUTPUT = "images_BHWC", "logits_BK"


def description(
    model: cam_net.CamNet, meta: checkpoint.Meta, points: OperatingPoints | None = None
) -> dict[str, Any]:
    """Describe, in JSON values, how an exported file is used."""
    config = meta.train_config
    return {
        "image_size": config.data.image_size,
        "resize": "squash to image_size x image_size, bilinear with antialiasing, EXIF upright",
        "input": "uint8 RGB, (batch, image_size, image_size, 3)",
        "mean": _rounded(model.mean),
        "std": _rounded(model.std),
        "normalisation": "(pixels - mean) / std, inside the graph",
        "output": "logits, (batch, classes); sigmoid for probabilities",
        "backbone": config.model.backbone,
        "head": config.model.head,
        "alpha": config.model.alpha_infer,
        "epoch": meta.epoch,
        "dataset_digest": meta.dataset_digest,
        "classes_sha256": meta.classes_sha256,
        "mids": list(meta.mids),
        "names": list(meta.names),
        **({} if points is None else _points(points)),
    }


def _points(points: OperatingPoints) -> dict[str, Any]:
    return {
        "thresholds": list(points.thresholds),
        "thresholds_are": f"{points}: a class is present where its logit is at least this",
        "temperatures": list(points.temperatures),
        "calibrated": "sigmoid(logits / temperatures)",
    }


def export(checkpoint_directory: str, output: Path, formats: tuple[str, ...]) -> dict[str, float]:
    """Write ``model.<format>``, ``model.json`` and a card; return the largest difference of each.

    Args:
        checkpoint_directory: local.
        output: directory, made if missing.
        formats: some of `FORMATS`.

    Raises:
        InputError: a package is missing, the network cannot be exported so, or the written file
            does not score as the checkpoint does (then it is not kept), or the disk is full.
    """
    model, meta = checkpoint.load_model(checkpoint_directory)
    points = operating_points.read(checkpoint_directory, meta.classes_sha256)
    about = description(model, meta, points)
    size = meta.train_config.data.image_size
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    output.mkdir(parents=True, exist_ok=True)
    differences = {}
    # Not a temporary name: exporters and readers go by the suffix.
    with (
        tempfile.TemporaryDirectory(dir=output, prefix=".export-") as scratch,
        full_disk_told(output),
    ):
        for name in formats:
            say(f"writing and checking {output / f'model.{name}'}")
            path = Path(scratch) / f"model.{name}"
            write, scorer = FORMATS[name]
            _quietly(write, model, path, about)
            differences[name] = _checked(scorer(path, meta), images, expected, output / path.name)
            path.chmod(0o644)  # safetensors makes files that only their owner reads
            os.replace(path, output / path.name)
    with replacing(output / "model.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    card = model_card.card(checkpoints.validated_meta(checkpoint_directory))
    with replacing(output / "README.md") as temporary:
        temporary.write_text(card, "utf-8")
    return differences


def _checked(
    scorer: Scorer,
    images_BHWC: npt.NDArray[np.uint8],
    expected_BK: npt.NDArray[np.float32],
    path: Path,
) -> float:
    """Score images with an exported file; return the largest difference of its logits.

    Raises:
        InputError: the difference is beyond `TOLERANCE`.
    """
    # Another batch size than it was traced with: a batch size frozen into a file shows here.
    difference = float(np.abs(scorer(images_BHWC) - expected_BK).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    if math.isnan(difference) or difference > allowed:
        raise InputError(
            f"logits differ by {difference:.3g} from the checkpoint's, {allowed:.3g} is allowed",
            file=path,
            fix="choose another format for this backbone",
        )
    return difference


def _write_safetensors(model: cam_net.CamNet, path: Path, about: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", **_texts(about)})


def _safetensors_scorer(path: Path, meta: checkpoint.Meta) -> Scorer:
    from safetensors.torch import load_file

    blank = checkpoint.blank_model(meta).eval()
    blank.load_state_dict(load_file(path))
    return _scorer_of(blank)


def _write_pt2(model: cam_net.CamNet, path: Path, about: Mapping[str, Any]) -> None:
    batch = {_INPUT: {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(model, (_example(about),), dynamic_shapes=batch)
    torch.export.save(program, path, extra_files={"model.json": json.dumps(about)})


def _pt2_scorer(path: Path, meta: checkpoint.Meta) -> Scorer:
    return _scorer_of(torch.export.load(path).module())


def _write_onnx(model: cam_net.CamNet, path: Path, about: Mapping[str, Any]) -> None:
    import onnxscript  # noqa: F401  (torch reports its absence less clearly)

    program = torch.onnx.export(
        model,
        (_example(about),),
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes={_INPUT: {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_texts(about))
    program.save(path)


def _onnx_scorer(path: Path, meta: checkpoint.Meta) -> Scorer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images_BHWC: session.run([_OUTPUT], {_INPUT: images_BHWC})[0]


def _scorer_of(model: nn.Module) -> Scorer:
    def score(images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(images_BHWC)).numpy()

    return score


def _example(about: Mapping[str, Any]) -> torch.Tensor:
    # Two images: a batch of one would be taken for a constant.
    return torch.zeros((2, about["image_size"], about["image_size"], 3), dtype=torch.uint8)


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]


def _texts(about: Mapping[str, Any]) -> dict[str, str]:
    """Encode a description for metadata that holds strings only."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()
    }


def _quietly(write: Callable[..., None], *arguments: Any) -> None:
    """Run an exporter without its log and warnings; turn its errors into one line.

    Raises:
        InputError: a package is missing, or the exporter refuses the network.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            write(*arguments)
    except ModuleNotFoundError as error:
        raise InputError(
            f"this format needs the package {error.name}", fix=f"pip install {error.name}"
        ) from None
    except Exception as error:  # exporters raise many kinds; all mean: not this network
        reason = first_line(error, 200)
        raise InputError(
            f"the network cannot be exported so ({reason})", fix="choose another format"
        ) from None


FORMATS: Mapping[str, tuple[Callable[..., None], Callable[[Path, checkpoint.Meta], Scorer]]] = {
    "safetensors": (_write_safetensors, _safetensors_scorer),
    "pt2": (_write_pt2, _pt2_scorer),
    "onnx": (_write_onnx, _onnx_scorer),
}
