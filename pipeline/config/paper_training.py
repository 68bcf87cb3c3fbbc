"""Training values of the papers per data set and method, each with its source.

Backbone, batch, learning rate, BoostLU and so on, named as in the training configuration, but for
``algorithm``, which is not configurable: Adam, as in every published code but IMCL's. Pure data.

Sources: BG = code of the BoostLU paper, LL = Large Loss Matters, COLE = Cole et al. 2021, ACK =
Zhou et al. 2022, ASL = Ridnik et al. 2021, CSL = Ben-Baruch et al. 2022, IMCL = Huynh and
Elhamifar 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Provenance = Literal["paper", "code", "inferred", "unknown", "ours"]
"""Of the paper (text, supplement, tables), of the authors' code (or their issue answers), inferred
from either (or from a third-party port), unknown (chosen here because nothing is published), or
ours (a name, or the demo's: no published number depends on it)."""
PaperDataset = Literal["pascal", "coco", "nuswide", "cub", "openimages-v3"]
DATASETS: tuple[PaperDataset, ...] = get_args(PaperDataset)
SINGLE_POSITIVE = DATASETS[:4]
LARGE_LOSS = ("ll-r", "ll-ct", "ll-cp")
LINEAR_EPOCHS, END_TO_END_EPOCHS = 25, 10

_COLE = ("full", "ls", "wan", "epr", "iu", "asl", "role", "role-li")
_GRID = "COLE searched batch {8, 16} x rate {1e-2..1e-5} by validation mAP"
_ELSEWHERE = "not run on this data by any of the papers"
_CSL = "CSL script, COCO; that of Open Images V3 is not published"


@dataclass(frozen=True)
class Value:
    """One hyper-parameter and where it comes from."""

    value: Any
    provenance: Provenance
    source: str


# On Open Images V3, of methods that do not follow LL there.
_PUBLISHED_BY_METHOD: dict[str, dict[str, Value]] = {
    "p-asl": {
        "backbone": Value(
            "resnet101", "unknown", "CSL: TResNet-M of ImageNet-21k, not in torchvision"
        ),
        "image_size": Value(448, "inferred", _CSL),
        "batch_size": Value(64, "inferred", _CSL),
        "epochs": Value(30, "inferred", _CSL),
        "learning_rate": Value(2e-4, "inferred", _CSL),
        "head_multiplier": Value(1.0, "inferred", _CSL),
        "weight_decay": Value(1e-4, "inferred", _CSL),
        "schedule": Value("one-cycle", "inferred", _CSL),
        "warmup": Value(0.2, "inferred", _CSL),
        "ema_decay": Value(0.9997, "inferred", _CSL),
    },
    "imcl": {
        "weights": Value("IMAGENET1K_V1", "unknown", "IMCL starts from weights of Open Images V2"),
        "batch_size": Value(20, "code", "IMCL, end to end"),
        "epochs": Value(1, "code", "IMCL: one pass"),
        "algorithm": Value("adam", "unknown", "IMCL: RMSProp, whose rates do not carry over"),
    },
}


def per_dataset(
    dataset: str, values: tuple[Any, ...], provenance: Provenance, source: str
) -> Value:
    """Pick a data set's value from one value per data set of `DATASETS`."""
    return Value(values[DATASETS.index(dataset)], provenance, source)


def training_values(dataset: str, method: str) -> dict[str, Value]:
    """Collect the training values of a method on one of `DATASETS`."""
    named = {"experiment": Value(dataset, "ours", "named after the data set")}
    if dataset in SINGLE_POSITIVE:
        return named | _single_positive(dataset, method) | _boost(method)
    return named | _openimages(method) | _boost(method)


def _boost(method: str) -> dict[str, Value]:
    """BoostLU's slopes: 5 in the rows of the paper that have it, else off."""
    on = method in LARGE_LOSS
    source = "BG config" if on else "BoostLU is of this paper; alpha 1 is pooling and a linear head"
    value = Value(5.0 if on else 1.0, "code", source)
    return {"alpha_train": value, "alpha_infer": value}


def _single_positive(dataset: str, method: str) -> dict[str, Value]:
    """The protocol of COLE, inherited by all; ACK's and BG's own batch and learning rate."""
    common = {
        "backbone": Value("resnet50", "code", "COLE, ACK, LL, BG"),
        "weights": Value("IMAGENET1K_V1", "code", "torchvision pretrained=True of all four"),
        "image_size": Value(448, "code", "all four"),
        "crop": Value("squash", "code", "all four"),
        "flip": Value(True, "code", "all four"),
        "epochs": Value(10, "code", "all four; the best validation epoch is tested"),
        "algorithm": Value("adam", "code", "all four, default betas"),
        "weight_decay": Value(0.0, "code", "all four"),
        "schedule": Value("constant", "code", "all four"),
    }
    if method in ("em", "em-apl"):
        return common | {
            "batch_size": per_dataset(dataset, (8, 16, 16, 8), "code", "ACK"),
            "learning_rate": per_dataset(dataset, (1e-5, 1e-5, 1e-5, 1e-4), "code", "ACK"),
            "head_multiplier": Value(1.0, "code", "ACK: one group"),
        }
    if method in _COLE:
        epochs = {}
        if method == "role-li":
            both = f"COLE: {LINEAR_EPOCHS} linear, then {END_TO_END_EPOCHS} end to end"
            epochs["epochs"] = Value(LINEAR_EPOCHS + END_TO_END_EPOCHS, "code", both)
        return (
            common
            | {
                "batch_size": Value(16, "unknown", _GRID),
                "learning_rate": Value(1e-5, "unknown", _GRID),
                "head_multiplier": Value(1.0, "code", "COLE, ACK: one group"),
            }
            | epochs
        )
    known = method in ("an", *LARGE_LOSS)
    provenance: Provenance = "code" if known else "unknown"
    source = "BG config" if known else _ELSEWHERE
    return common | {
        "batch_size": Value(16, provenance, source),
        "learning_rate": Value(1e-5, provenance, source),
        "head_multiplier": Value(10.0, provenance, source),
    }


def _openimages(method: str) -> dict[str, Value]:
    """Open Images V3; the training code of the paper's rows is not released."""
    released = "training code not released"
    common = {
        "backbone": Value("resnet101", "code", "BG models, OPENIMAGES branch"),
        "weights": Value("IMAGENET1K_V1", "code", "BG models"),
        "image_size": Value(224, "unknown", released),
        "batch_size": Value(288, "unknown", released),
        "workers": Value("4", "inferred", "four GPUs in an LL issue"),
        "crop": Value("squash", "unknown", released),
        "flip": Value(True, "unknown", released),
        "algorithm": Value("adam", "inferred", "the only one in BG, the default of LL"),
        "weight_decay": Value(0.0, "inferred", "as in BG's other runs"),
        "schedule": Value("constant", "inferred", "as in BG's other runs"),
    }
    # LL's supplement trained these; every other method takes its values for want of better ones.
    supplement = method in ("an", "wan", "ls", "iu", *LARGE_LOSS)
    provenance: Provenance = "paper" if supplement else "unknown"
    source = "LL supplement" if supplement else "that of LL; this method's own is not published"
    return (
        common
        | {
            "epochs": Value(20, provenance, source),
            "learning_rate": Value(2e-5, provenance, source),
            "head_multiplier": Value(10.0, provenance, source),
        }
        | _PUBLISHED_BY_METHOD.get(method, {})
    )
