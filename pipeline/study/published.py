"""Keep the numbers of the paper's tables that a study's rows stand beside.

Those of Open Images are `pipeline.evaluation.references.OPEN_IMAGES_V3`. All are mAP in percent on
the test split, of one run each, of arXiv 2304.01804; rows from Full Label to EM+APL of its
single-positive table are those of arXiv 2203.16219.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.paper_options import ablation
from pipeline.evaluation.references import OPEN_IMAGES_V3
from pipeline.tables import MAP_COLUMNS

_PRESETS = {"VOC": "pascal", "COCO": "coco", "NUS": "nuswide", "CUB": "cub"}
_SINGLE_POSITIVE: Mapping[str, tuple[float, float, float, float]] = {
    "Full Label": (89.42, 76.78, 52.08, 30.90),
    "AN": (85.89, 64.92, 42.27, 18.31),
    "LS": (87.90, 67.15, 43.77, 16.26),
    "ASL": (87.76, 68.78, 46.93, 18.81),
    "ROLE": (87.77, 67.04, 41.63, 13.66),
    "ROLE+LI": (88.26, 69.12, 45.98, 14.86),
    "EM": (89.09, 70.70, 47.15, 20.85),
    "EM+APL": (89.19, 70.87, 47.59, 21.84),
    "LL-R": (88.27, 70.70, 48.76, 19.56),
    "LL-R+BoostLU": (89.29, 72.89, 49.59, 19.80),
    "LL-Ct": (87.79, 70.29, 48.08, 19.06),
    "LL-Ct+BoostLU": (88.61, 71.78, 48.37, 19.25),
    "LL-Cp": (87.44, 70.27, 47.92, 19.21),
    "LL-Cp+BoostLU": (87.81, 71.41, 48.61, 19.34),
}
_ABLATION = (
    (86.10, 64.58),
    (87.31, 66.27),
    (86.73, 65.33),
    (88.24, 70.60),
    (87.18, 68.45),
    (88.90, 70.87),
    (89.27, 72.82),
)


def ablation_label(alpha_train: float, alpha_infer: float, method: str) -> str:
    """Name a row of the ablation as a row of one's own would be written."""
    return f"{method}@{alpha_train:g}/{alpha_infer:g}"


def of(table: str, label: str, preset: str) -> dict[str, float]:
    """Look up a row's published numbers: of the preset's data set, else of all that there are.

    Args:
        table: "ablation", "single-positive" or "openimages".
        label: of the row.
        preset: a preset's name, "" for none.

    Returns:
        mAP in percent by column: a data set for the first two tables, a group or All for the last.
    """
    if table == "openimages":
        return dict(zip(MAP_COLUMNS.values(), OPEN_IMAGES_V3[label].values, strict=False))
    if table == "ablation":
        labels = [ablation_label(*row) for row in ablation()]
        values: tuple[float, ...] = _ABLATION[labels.index(label)]
    else:
        values = _SINGLE_POSITIVE[label]
    columns = dict(zip(_PRESETS, values, strict=False))
    own = {name: value for name, value in columns.items() if _PRESETS[name] == preset}
    return own or columns
