"""Write a model card: what a network is, what it learned from, how it scores, what it is for."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipeline.models.checkpoint import Meta
from pipeline.tables import MAP_COLUMNS, Table, percent
from sharding.log import redact

# Of a network with maps alone.
_SHOWS = ", and to show where in an image the evidence is"
_MAPS = "A map shows what raised a score on a coarse grid; it is no outline."
# A line each: MLflow's pages break at every line's end.
_LIMITS = (
    "Scores rank; labels that were missing in training lower probabilities, which are calibrated "
    "only where the model has thresholds of its own (`evaluate --thresholds`).",
    "mAP counts annotated entries only; it says nothing of what nobody looked at.",
    "Rare classes rest on few positives: read their mAP with its interval (`--intervals 200`).",
    _MAPS,
    "Other cameras, crops and places than those of the training images were not tried.",
)
_USE = (
    "### Intended use\n\nTo suggest labels of its own classes for photographs like the training "
    f"images, for people to confirm{_SHOWS}. Not for "
    "decisions about people, and not as proof that something is absent.\n\n### Limits\n\n"
    + "".join(f"- {limit}\n" for limit in _LIMITS)
)


def card(meta: Meta, results: str = "") -> str:
    """Compose the card in Markdown.

    Args:
        meta: of the checkpoint.
        results: how it scores, in Markdown; by default what the checkpoint says of its validation.
    """
    config = meta.train_config
    maps = config.model.head == "cam"
    head = "class activation maps and BoostLU" if maps else config.model.head_in_words
    first = (
        f"{config.model.backbone} with {head} for {len(meta.mids):,} "
        f"classes, trained on partial labels with {config.method}."
    )
    rows = "\n".join(f"| {name} | {redact(text)} |" for name, text in _facts(meta))
    about = f"### What it is\n\n| | |\n|---|---|\n{rows}"
    use = _USE if maps else _USE.replace(_SHOWS, "").replace(f"- {_MAPS}\n", "")
    return "\n\n".join(part for part in (first, results or _validation(meta), about, use) if part)


def _facts(meta: Meta) -> Iterator[tuple[str, str]]:
    config, data = meta.train_config, meta.data
    options = ", ".join(config.method_options)
    yield "Method", f"{config.method}{f' ({options})' if options else ''}, seed {config.seed}"
    yield "Checkpoint", f"epoch {meta.epoch}, {meta.images_seen:,} images seen"
    yield (
        "Network",
        f"{config.model.backbone} at {config.data.image_size} px, from "
        f"{config.model.weights or 'random weights'}, with {config.model.head_in_words}",
    )
    if data:
        states = ", ".join(f"{data[s]:,} {s}" for s in ("positives", "negatives", "unobserved"))
        yield "Training images", f"{data['images']:,} with {states} labels"
        yield "Class groups", data["groups"]
        yield "Licence", f"annotations {data['licence']}; images as in the dataset's README.md"
    yield "Dataset", f"labels {meta.labels}, digest `{meta.dataset_digest}`"


def _validation(meta: Meta) -> str:
    """Tabulate the validation mAP that a checkpoint has; nothing if it was not validated."""
    both = (("BoostLU off", "val_no_boost"), ("BoostLU on", "val"))
    rows = [
        [name, *(percent(meta.metrics.get(f"{p}/mAP/{m}", math.nan)) for m in MAP_COLUMNS)]
        for name, p in (both if meta.train_config.model.head == "cam" else (("mAP", "val"),))
    ]
    if "val/mAP/all" not in meta.metrics:
        return ""
    table = Table(headers=("", *MAP_COLUMNS.values()), sections=[rows], notes=["mAP in percent."])
    return f"### Validation, epoch {meta.epoch}\n\n{table.markdown()}"
