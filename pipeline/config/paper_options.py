"""Method options of the papers per data set, each with its source, and their ablation's rows.

Pure data: what no paper publishes says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.paper_training import (
    LARGE_LOSS,
    LINEAR_EPOCHS,
    SINGLE_POSITIVE,
    Value,
    per_dataset,
    values,
)

_P_ASL = "CSL README, COCO; those of Open Images V3 are not published"
_DURAND = "two third-party ports; g(0.1) = 5 and g(1) = 1"
_ASL = "default of the ASL code; which ACK ran is unknown"
_EVERYWHERE: Mapping[str, Mapping[str, Value]] = {
    "ls": values("code", "COLE", ls_coef=0.1),
    "iu": values("inferred", "LL keeps rejected entries in the mean", normalise="entries"),
    "asl": values("unknown", _ASL, gamma_neg=4.0, gamma_pos=1.0, clip=0.05),
    "hill": values("code", "MLML: defaults", lamb=1.5, margin=1.0, gamma=2.0),
    "splc": {
        **values("code", "MLML: default; 0.65 where 75 % of the positives are left", tau=0.6),
        **values("code", "MLML: defaults", margin=1.0, gamma=2.0),
    },
    "gr": {
        **values("code", "GR: default", linear_epochs=0, beta=(0, 2, -2, -2)),
        **values("code", "GR: default", alpha=(0.5, 2, 0.8, 0.5), q=(0.01, 1)),
    },
    "p-asl": {
        **values("inferred", _P_ASL, gamma_pos=0.0, gamma_neg=1.0, gamma_unann=4.0),
        **values("inferred", _P_ASL, likelihood_topk=5, prior_threshold=0.5),
    },
    "curriculum": {
        **values("inferred", _DURAND, alpha=-4.45, beta=5.45, gamma=1.0),
        **values("inferred", "a third-party port", positive_threshold=4.0, negative_threshold=-4.0),
        **values("unknown", "number of stages not published", relabel_every=0),
    },
    "imcl": {
        **values("code", "IMCL, Open Images", alpha_colab=1.0, alpha_feature=0.5),
        **values("code", "IMCL, Open Images, end to end", num_atoms=3),
        **values("unknown", "its dictionary file is not published", atoms_per_class=1),
        **values("inferred", "half of IMCL's classifier rate, other optimiser", graph_lr=5e-4),
    },
    "cnn-rnn": values("inferred", "from memory of the paper's text", embedding=64, hidden=512),
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
    options = {"expected_num_pos": count}
    if method == "epr":
        return options
    rate = training["learning_rate"].value
    options |= values("code", "COLE: ten times the classifier's", estimator_lr=10 * rate)
    if method == "role-li":
        options |= values("code", "COLE", linear_epochs=LINEAR_EPOCHS)
        factor = round(1e-3 / rate, 6)
        options |= values("code", "COLE: 1e-3 in the linear phase", linear_rate=factor)
    return options


def _entropy(dataset: str, method: str) -> dict[str, Value]:
    if dataset in SINGLE_POSITIVE:
        options = {
            "alpha": per_dataset(dataset, (0.2, 0.1, 0.1, 0.01), "code", "ACK"),
            "beta": per_dataset(dataset, (0.02, 0.9, 0.2, 0.4), "code", "ACK"),
            "warmup_epochs": per_dataset(dataset, (5, 5, 4, 3), "code", "ACK"),
        }
    else:
        source = "no paper runs it here; COCO's values"
        options = values("unknown", source, alpha=0.1, beta=0.9, warmup_epochs=5)
    if method == "em":
        return {"alpha": options["alpha"]}
    return options | values("code", "ACK", theta=0.9)
