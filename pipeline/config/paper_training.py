"""Training values of the papers per data set and method, each with its source.

Backbone, batch, learning rate, BoostLU and so on, named as in the training configuration, but for
``algorithm``, which is not configurable: Adam, as in every published code but IMCL's. Pure data.

Sources: BG = code of the BoostLU paper, LL = Large Loss Matters, COLE = Cole et al. 2021, ACK =
Zhou et al. 2022, ASL = Ridnik et al. 2021, CSL = Ben-Baruch et al. 2022, IMCL = Huynh and
Elhamifar 2020, MLML = Zhang et al. 2021 (Hill, SPLC), GR = Chen et al. 2024.
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
_UNRELEASED = "training code not released"
_CSL = "CSL script, COCO; that of Open Images V3 is not published"


@dataclass(frozen=True)
class Value:
    """One hyper-parameter and where it comes from."""

    value: Any
    provenance: Provenance
    source: str


def values(provenance: Provenance, source: str, **parameters: Any) -> dict[str, Value]:
    """Give several hyper-parameters one provenance and source."""
    return {name: Value(value, provenance, source) for name, value in parameters.items()}


def per_dataset(
    dataset: str, values: tuple[Any, ...], provenance: Provenance, source: str
) -> Value:
    """Pick a data set's value from one value per data set of `DATASETS`."""
    return Value(values[DATASETS.index(dataset)], provenance, source)


# On Open Images V3, of methods that do not follow LL there.
_PUBLISHED_BY_METHOD: dict[str, dict[str, Value]] = {
    "p-asl": {
        **values(
            "unknown", "CSL: TResNet-M of ImageNet-21k, not in torchvision", backbone="resnet101"
        ),
        **values("inferred", _CSL, image_size=448, batch_size=64, epochs=30),
        **values("inferred", _CSL, learning_rate=2e-4, head_multiplier=1.0, weight_decay=1e-4),
        **values("inferred", _CSL, schedule="one-cycle", warmup=0.2, ema_decay=0.9997),
    },
    "imcl": {
        **values("unknown", "IMCL starts from weights of Open Images V2", weights="IMAGENET1K_V1"),
        **values("code", "IMCL, end to end", batch_size=20),
        **values("code", "IMCL: one pass", epochs=1),
        **values("unknown", "IMCL: RMSProp, whose rates do not carry over", algorithm="adam"),
    },
}


def training_values(dataset: str, method: str) -> dict[str, Value]:
    """Collect the training values of a method on one of `DATASETS`."""
    named = values("ours", "named after the data set", experiment=dataset)
    if dataset in SINGLE_POSITIVE:
        return named | _single_positive(dataset, method) | _boost(method)
    return named | _openimages(method) | _boost(method)


def _boost(method: str) -> dict[str, Value]:
    """BoostLU's slopes: 5 in the rows of the paper that have it, else off."""
    if method in LARGE_LOSS:
        return values("code", "BG config", alpha_train=5.0, alpha_infer=5.0)
    source = "BoostLU is of this paper; alpha 1 is pooling and a linear head"
    return values("code", source, alpha_train=1.0, alpha_infer=1.0)


def _single_positive(dataset: str, method: str) -> dict[str, Value]:
    """The protocol of COLE, inherited by all; ACK's and BG's own batch and learning rate."""
    common = {
        **values("code", "COLE, ACK, LL, BG", backbone="resnet50"),
        **values("code", "torchvision pretrained=True of all four", weights="IMAGENET1K_V1"),
        **values("code", "all four", image_size=448, crop="squash", flip=True),
        **values("code", "all four; the best validation epoch is tested", epochs=10),
        **values("code", "all four, default betas", algorithm="adam"),
        **values("code", "all four", weight_decay=0.0, schedule="constant"),
    }
    if method in ("em", "em-apl"):
        return common | {
            "batch_size": per_dataset(dataset, (8, 16, 16, 8), "code", "ACK"),
            "learning_rate": per_dataset(dataset, (1e-5, 1e-5, 1e-5, 1e-4), "code", "ACK"),
            **values("code", "ACK: one group", head_multiplier=1.0),
        }
    if method in _COLE:
        grid = values("unknown", _GRID, batch_size=16, learning_rate=1e-5)
        common |= grid | values("code", "COLE, ACK: one group", head_multiplier=1.0)
        if method == "role-li":
            both = f"COLE: {LINEAR_EPOCHS} linear, then {END_TO_END_EPOCHS} end to end"
            common |= values("code", both, epochs=LINEAR_EPOCHS + END_TO_END_EPOCHS)
        return common
    if method in ("hill", "splc"):
        return common | _mlml(dataset)
    if method == "gr":
        found: Provenance = "code" if dataset == "pascal" else "inferred"
        rates = values(found, "GR: default", batch_size=8, learning_rate=1e-5, epochs=8)
        return common | rates | values(found, "GR: default", head_multiplier=10.0)
    others = {"batch_size": 16, "learning_rate": 1e-5, "head_multiplier": 10.0}
    if method in ("an", *LARGE_LOSS):
        return common | values("code", "BG config", **others)
    return common | values("unknown", _ELSEWHERE, **others)


def _mlml(dataset: str) -> dict[str, Value]:
    """The recipe of Hill and SPLC, published for COCO and NUS-WIDE."""
    if dataset in ("coco", "nuswide"):
        provenance: Provenance = "code"
        source = "MLML train.py"
    else:
        provenance, source = "unknown", f"{_ELSEWHERE}; MLML's values of COCO"
    return {
        **values(provenance, source, batch_size=128, learning_rate=1e-4, head_multiplier=1.0),
        **values(provenance, source, weight_decay=1e-4, ema_decay=0.9997),
        **values(provenance, source, schedule="one-cycle", warmup=0.2),
        **values(provenance, f"{source}, which stops after 31 of them", epochs=80),
        **values(provenance, source, flip=False, cutout=0.5),
        **values("unknown", "MLML: the default of another package", rand_augment=9),
    }


def _openimages(method: str) -> dict[str, Value]:
    """Open Images V3; the training code of the paper's rows is not released."""
    common = {
        **values("code", "BG models, OPENIMAGES branch", backbone="resnet101"),
        **values("code", "BG models", weights="IMAGENET1K_V1"),
        **values("unknown", _UNRELEASED, image_size=224, batch_size=288, crop="squash", flip=True),
        **values("inferred", "four GPUs in an LL issue", workers="4"),
        **values("inferred", "the only one in BG, the default of LL", algorithm="adam"),
        **values("inferred", "as in BG's other runs", weight_decay=0.0, schedule="constant"),
    }
    rates = {"epochs": 20, "learning_rate": 2e-5, "head_multiplier": 10.0}
    # LL's supplement trained these; every other method takes its values for want of better ones.
    if method in ("an", "wan", "ls", "iu", *LARGE_LOSS):
        return common | values("paper", "LL supplement", **rates)
    source = "that of LL; this method's own is not published"
    return common | values("unknown", source, **rates) | _PUBLISHED_BY_METHOD.get(method, {})
