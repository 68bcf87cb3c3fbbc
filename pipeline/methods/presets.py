"""The papers' values per dataset and method, each with where it comes from.

A value is of the "paper" (text, supplement or tables), of the authors' "code" (or their issue
answers), "inferred" (from either, or a third-party port), or "unknown" (a choice of ours where
nothing is published). Pure data: nothing is trained here, and nothing chosen silently.

Sources: BG = code of the BoostLU paper, LL = Large Loss Matters, COLE = Cole et al. 2021, ACK =
Zhou et al. 2022, CSL = Ben-Baruch et al. 2022, IMCL = Huynh and Elhamifar 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.methods.registry import names
from sharding.errors import InputError

Provenance = Literal["paper", "code", "inferred", "unknown"]
DATASETS = ("pascal", "coco", "nuswide", "cub", "openimages-v3")
_SINGLE_POSITIVE = DATASETS[:4]


@dataclass(frozen=True)
class Value:
    """One hyper-parameter: what it is, and why anyone should believe it."""

    value: Any
    provenance: Provenance
    source: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A dataset with a method.

    Attributes:
        training: backbone, learning rate, batch and so on, named as in the configuration.
        options: for `pipeline.methods.create`.
    """

    training: Mapping[str, Value]
    options: Mapping[str, Value]

    def create_options(self) -> dict[str, Any]:
        """The options without their provenance."""
        return {name: value.value for name, value in self.options.items()}


def preset(dataset: str, method: str) -> Preset:
    """The values for a method on a dataset.

    Raises:
        InputError: unknown dataset or method; the message lists the known ones.
    """
    if dataset not in DATASETS:
        raise InputError(f"no dataset {dataset!r}", fix=f"choose one of {', '.join(DATASETS)}")
    if method not in names():
        raise InputError(f"no method {method!r}", fix=f"choose one of {', '.join(names())}")
    training = _openimages() if dataset == "openimages-v3" else _single_positive(dataset, method)
    return Preset(training=training, options=_options(dataset, method, training))


def ablation() -> list[tuple[float, float, str]]:
    """The seven rows (alpha_train, alpha_infer, method) of the paper's ablation.

    Which alpha chose the best epoch of the mixed rows is not known: log both.
    """
    rows = [(1.0, 1.0, "an"), (1.0, 5.0, "an"), (5.0, 5.0, "an")]
    return rows + [(a, b, "ll-r") for a, b in ((1.0, 1.0), (5.0, 1.0), (1.0, 5.0), (5.0, 5.0))]


def _of(per_dataset: str, values: tuple[Any, ...], provenance: Provenance, source: str) -> Value:
    return Value(values[DATASETS.index(per_dataset)], provenance, source)


def _boost(value: float = 5.0) -> dict[str, Value]:
    return {
        "alpha_train": Value(value, "code", "BG config"),
        "alpha_infer": Value(value, "code", "BG config"),
    }


def _single_positive(dataset: str, method: str) -> dict[str, Value]:
    """The protocol of COLE, inherited by all; ACK's and BG's own batch and learning rate."""
    common = {
        "backbone": Value("resnet50", "code", "COLE, ACK, LL, BG"),
        "weights": Value("IMAGENET1K_V1", "code", "torchvision pretrained=True of all four"),
        "image_size": Value(448, "code", "all four: squashed, not cropped"),
        "flip": Value(True, "code", "all four"),
        "epochs": Value(10, "code", "all four; the best validation epoch is tested"),
        "optimizer": Value("adam", "code", "all four"),
        "weight_decay": Value(0.0, "code", "all four"),
    }
    if method in ("em", "em-apl"):
        return common | {
            "batch_size": _of(dataset, (8, 16, 16, 8), "code", "ACK"),
            "learning_rate": _of(dataset, (1e-5, 1e-5, 1e-5, 1e-4), "code", "ACK"),
            "head_multiplier": Value(1.0, "code", "ACK"),
        }
    if method in ("full", "ls", "wan", "epr", "iu", "asl", "role", "role-li"):
        grid = "COLE searched batch {8, 16} x rate {1e-2..1e-5} by validation mAP"
        return common | {
            "batch_size": Value(16, "unknown", grid),
            "learning_rate": Value(1e-5, "unknown", grid),
            "head_multiplier": Value(1.0, "code", "COLE, ACK"),
        }
    known = method in ("an", "ll-r", "ll-ct", "ll-cp")
    provenance: Provenance = "code" if known else "unknown"
    source = "BG config" if known else "not run on these sets by any paper at hand"
    return (
        common
        | {
            "batch_size": Value(16, provenance, source),
            "learning_rate": Value(1e-5, provenance, source),
            "head_multiplier": Value(10.0, provenance, source),
        }
        | _boost()
    )


def _openimages() -> dict[str, Value]:
    return {
        "backbone": Value("resnet101", "code", "BG models, OPENIMAGES branch"),
        "weights": Value("IMAGENET1K_V1", "code", "BG models"),
        "image_size": Value(224, "unknown", "training code not released"),
        "batch_size": Value(288, "unknown", "training code not released; 4 GPUs in an LL issue"),
        "flip": Value(True, "unknown", "training code not released"),
        "epochs": Value(20, "paper", "LL supplement"),
        "learning_rate": Value(2e-5, "paper", "LL supplement"),
        "head_multiplier": Value(10.0, "paper", "LL supplement"),
        "optimizer": Value("adam", "inferred", "the only one in BG, the default of LL"),
        "weight_decay": Value(0.0, "inferred", "as in BG's other runs"),
    } | _boost()


def _options(dataset: str, method: str, training: Mapping[str, Value]) -> dict[str, Value]:
    if method in ("ll-r", "ll-ct", "ll-cp"):
        return {"delta_rel": _delta_rel(dataset, method)}
    if method in ("epr", "role", "role-li"):
        return _expected_positive(dataset, method, training)
    if method in ("em", "em-apl"):
        return _entropy(dataset, method)
    return dict(_EVERYWHERE.get(method, {}))


def _delta_rel(dataset: str, method: str) -> Value:
    if dataset == "openimages-v3":
        return Value(0.01, "paper", "LL supplement, grid {0.005, 0.01}; which one is unknown")
    return Value({"ll-r": 0.5, "ll-ct": 0.2, "ll-cp": 0.1}[method], "code", "BG README")


def _expected_positive(
    dataset: str, method: str, training: Mapping[str, Value]
) -> dict[str, Value]:
    if dataset in _SINGLE_POSITIVE:
        count = _of(dataset, (1.5, 2.9, 1.9, 31.4), "code", "COLE")
    else:
        count = Value(6.0, "unknown", "no paper runs it here; ROLE's matrix does not fit")
    if method == "epr":
        return {"expected_num_pos": count}
    rate = 10 * training["learning_rate"].value
    options = {
        "expected_num_pos": count,
        "estimator_lr": Value(rate, "code", "COLE: ten times the classifier's"),
    }
    if method == "role-li":
        options["linear_epochs"] = Value(25, "code", "COLE")
    return options


def _entropy(dataset: str, method: str) -> dict[str, Value]:
    if dataset not in _SINGLE_POSITIVE:
        source = "no paper runs it here; COCO's values"
        values: tuple[Any, ...] = (0.1, 0.9, 5)
        alpha, beta, warmup = (Value(v, "unknown", source) for v in values)
        total = Value(20, "unknown", "the epochs of the other methods")
    else:
        alpha = _of(dataset, (0.2, 0.1, 0.1, 0.01), "code", "ACK")
        beta = _of(dataset, (0.02, 0.9, 0.2, 0.4), "code", "ACK")
        warmup = _of(dataset, (5, 5, 4, 3), "code", "ACK")
        total = Value(10, "code", "ACK")
    if method == "em":
        return {"alpha": alpha}
    return {
        "alpha": alpha,
        "beta": beta,
        "warmup_epochs": warmup,
        "total_epochs": total,
        "theta": Value(0.9, "code", "ACK"),
    }


_P_ASL = "CSL README, COCO; those of Open Images V3 are not published"
_DURAND = "two third-party ports; g(0.1) = 5 and g(1) = 1"
_EVERYWHERE: Mapping[str, Mapping[str, Value]] = {
    "ls": {"ls_coef": Value(0.1, "code", "COLE")},
    "iu": {"normalise": Value("entries", "inferred", "LL keeps rejected entries in the mean")},
    "asl": {
        "gamma_neg": Value(4.0, "unknown", "default of the ASL code; which ACK ran is unknown"),
        "gamma_pos": Value(1.0, "unknown", "default of the ASL code; which ACK ran is unknown"),
        "clip": Value(0.05, "unknown", "default of the ASL code; which ACK ran is unknown"),
    },
    "p-asl": {
        "gamma_pos": Value(0.0, "inferred", _P_ASL),
        "gamma_neg": Value(1.0, "inferred", _P_ASL),
        "gamma_unann": Value(4.0, "inferred", _P_ASL),
        "likelihood_topk": Value(5, "inferred", _P_ASL),
        "prior_threshold": Value(0.5, "inferred", _P_ASL),
    },
    "curriculum": {
        "alpha": Value(-4.45, "inferred", _DURAND),
        "beta": Value(5.45, "inferred", _DURAND),
        "gamma": Value(1.0, "inferred", _DURAND),
        "positive_threshold": Value(4.0, "inferred", "a third-party port"),
        "negative_threshold": Value(-4.0, "inferred", "a third-party port"),
        "relabel_every": Value(0, "unknown", "number of stages not published"),
    },
    "imcl": {
        "alpha_colab": Value(1.0, "code", "IMCL, Open Images"),
        "alpha_feature": Value(0.5, "code", "IMCL, Open Images"),
        "num_atoms": Value(3, "code", "IMCL, Open Images, end to end"),
        "atoms_per_class": Value(1, "unknown", "its dictionary file is not published"),
        "graph_lr": Value(5e-4, "inferred", "half of IMCL's classifier rate, other optimiser"),
    },
    "cnn-rnn": {
        "embedding": Value(64, "inferred", "recollection of the paper's text"),
        "hidden": Value(512, "inferred", "recollection of the paper's text"),
    },
}
