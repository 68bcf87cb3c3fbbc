"""Method options of the papers per data set, each with its source, and their ablation's rows.

Pure data: what no paper publishes says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.paper_training import (
    LARGE_LOSS,
    LINEAR_EPOCHS,
    SINGLE_POSITIVE,
    Value,
    per_dataset,
)

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
        "embedding": Value(64, "inferred", "from memory of the paper's text"),
        "hidden": Value(512, "inferred", "from memory of the paper's text"),
    },
}


def method_options(dataset: str, method: str, training: Mapping[str, Value]) -> dict[str, Value]:
    """Collect a method's options on a data set, for `pipeline.methods.create`.

    Args:
        dataset: one of `paper_training.DATASETS`.
        method: its name.
        training: `paper_training.training_values` of both; some options depend on them.
    """
    if method in LARGE_LOSS:
        return {"delta_rel": _delta_rel(dataset, method)}
    if method in ("epr", "role", "role-li"):
        return _expected_positive(dataset, method, training)
    if method in ("em", "em-apl"):
        return _entropy(dataset, method)
    return dict(_EVERYWHERE.get(method, {}))


def ablation() -> list[tuple[float, float, str]]:
    """List the seven rows (alpha_train, alpha_infer, method) of the paper's ablation.

    Which alpha chose the best epoch of the mixed rows is not known; validation logs both.
    """
    rows = [(1.0, 1.0, "an"), (1.0, 5.0, "an"), (5.0, 5.0, "an")]
    return rows + [(a, b, "ll-r") for a, b in ((1.0, 1.0), (5.0, 1.0), (1.0, 5.0), (5.0, 5.0))]


def _delta_rel(dataset: str, method: str) -> Value:
    if dataset == "openimages-v3":
        return Value(0.01, "paper", "LL supplement, grid {0.005, 0.01}; which one is unknown")
    return Value({"ll-r": 0.5, "ll-ct": 0.2, "ll-cp": 0.1}[method], "code", "BG README")


def _expected_positive(
    dataset: str, method: str, training: Mapping[str, Value]
) -> dict[str, Value]:
    if dataset in SINGLE_POSITIVE:
        count = per_dataset(dataset, (1.5, 2.9, 1.9, 31.4), "code", "COLE")
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
        options["linear_epochs"] = Value(LINEAR_EPOCHS, "code", "COLE")
        factor = round(1e-3 / training["learning_rate"].value, 6)
        options["linear_rate"] = Value(factor, "code", "COLE: 1e-3 in the linear phase")
    return options


def _entropy(dataset: str, method: str) -> dict[str, Value]:
    if dataset not in SINGLE_POSITIVE:
        source = "no paper runs it here; COCO's values"
        values: tuple[Any, ...] = (0.1, 0.9, 5)
        alpha, beta, warmup = (Value(v, "unknown", source) for v in values)
    else:
        alpha = per_dataset(dataset, (0.2, 0.1, 0.1, 0.01), "code", "ACK")
        beta = per_dataset(dataset, (0.02, 0.9, 0.2, 0.4), "code", "ACK")
        warmup = per_dataset(dataset, (5, 5, 4, 3), "code", "ACK")
    if method == "em":
        return {"alpha": alpha}
    return {
        "alpha": alpha,
        "beta": beta,
        "warmup_epochs": warmup,
        "theta": Value(0.9, "code", "ACK"),
    }
