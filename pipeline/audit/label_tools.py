"""Write candidates for Label Studio and FiftyOne: their JSON, and the pictures as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.candidates import Candidates
from sharding.classes import ClassTable
from sharding.image_ids import format_image_ids
from sharding.storage.files import replacing

PICTURES = "data"
"""Folder of the pictures; FiftyOne looks for them there."""
_SERVED = f"/data/local-files/?d={PICTURES}/"
"""Where Label Studio serves the files below its document root."""
_LABELLING = """\
<View>
  <Header value="$name"/>
  <Image name="image" value="$image"/>
  <Choices name="answer" toName="image" choice="single" showInline="true">
    <Choice value="Positive" hotkey="p"/>
    <Choice value="Negative" hotkey="n"/>
    <Choice value="Unsure" hotkey="u"/>
  </Choices>
</View>
"""


def write(
    output: Path,
    tools: Iterable[str],
    chosen: Candidates,
    classes: ClassTable,
    images: Iterable[tuple[str, bytes]],
) -> list[Path]:
    """Write the pictures and each tool's files; return what the user opens.

    Args:
        output: directory, made if missing.
        tools: "label-studio" (tasks and labelling interface) or "fiftyone" (``labels.json``).
        chosen: the candidates.
        classes: of the dataset.
        images: (id, encoded image) of every candidate's image.
    """
    for image_id, content in images:
        with replacing(output / PICTURES / f"{image_id}.jpg") as temporary:
            temporary.write_bytes(content)
    written = []
    for tool in tools:
        if tool == "label-studio":
            files = {
                "label-studio.json": _json(label_studio(chosen, classes)),
                "label-studio.xml": _LABELLING,
            }
        else:
            files = {"labels.json": _json(fiftyone(chosen, classes))}
        for name, text in files.items():
            with replacing(output / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(output / name)
    return written


def label_studio(chosen: Candidates, classes: ClassTable) -> list[dict[str, Any]]:
    """Make a task of each candidate: is this class in this picture? The model says yes."""
    return [
        {
            "data": {"image": f"{_SERVED}{image_id}.jpg", "image_id": image_id, **about},
            "predictions": [
                {
                    "model_version": f"{chosen.method}, epoch {chosen.epoch}",
                    "score": about["probability"],
                    "result": [
                        {
                            "from_name": "answer",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": ["Positive"]},
                        }
                    ],
                }
            ],
        }
        for image_id, about in _rows(chosen, classes)
    ]


def fiftyone(chosen: Candidates, classes: ClassTable) -> dict[str, Any]:
    """Make the labels of a FiftyOneImageClassificationDataset: each image's candidates."""
    labels: dict[str, list[dict[str, Any]]] = {}
    for image_id, about in _rows(chosen, classes):
        name, probability = about.pop("name"), about.pop("probability")
        label = {"label": name, "confidence": probability, "attributes": about}
        labels.setdefault(image_id, []).append(label)
    return {"labels": labels}


def _rows(chosen: Candidates, classes: ClassTable) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each candidate's image id, and what there is to say of it."""
    for n, image_id in enumerate(format_image_ids(chosen.image_ids_N)):
        k, machine = int(chosen.classes_N[n]), {}
        if chosen.confidences_N is not None and not np.isnan(chosen.confidences_N[n]):
            machine["machine_confidence"] = round(float(chosen.confidences_N[n]), 6)
        yield (
            image_id,
            {
                "mid": classes.mids[k],
                "name": classes.names[k],
                "probability": round(float(chosen.probabilities_N[n]), 6),
                "loss": round(float(chosen.losses_N[n]), 6),
                "decision": str(chosen.decisions_N[n]),
                **machine,
            },
        )


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
