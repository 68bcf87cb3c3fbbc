"""Check the audit's promises on the demo's complete truth: label errors found, reviews planned.

    python -m benchmarks.quality.audit --output demo/audit

A linear classifier on thumbnails and colours stands for the network, so that it takes a minute. It
is trained on training labels of which 3 % are turned around, and looks for these: by all that it
learned, and by folds. Then 10 % of the labels of the validation images are verified, and more until
the 95 % interval of the groups' mAP is half as wide: planned, and drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from pipeline.audit import label_errors, review_plan
from pipeline.audit.label_errors import Opinion
from pipeline.audit.review_plan import Pool
from pipeline.evaluation import bootstrap
from pipeline.evaluation.metrics import average_precision, summarize
from pipeline.evaluation.scores import Scores
from sharding.classes import NUM_GROUPS, assign_groups
from sharding.image_ids import format_image_ids
from sharding.labels import POSITIVE, UNOBSERVED, LabelTable
from sharding.openimages.annotations import read_split
from sharding.openimages.class_list import read_mids
from sharding.openimages.dump import Dump
from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions

DEPTHS = (30, 100, 300)
_GROUPS = slice(0, NUM_GROUPS)
_SIDE, _COLOURS, _RIDGE = 12, 6, 30.0
_CLIP = 0.02


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to check, and how long."""

    output: Path = Path("demo/audit")
    """Where the dump goes."""
    folds: int = 5
    """Into which the training images are cut."""
    seeds: int = 10
    """First labels drawn for the review planner."""


def main(options: Options) -> None:
    """Make data, fit, print both tables."""
    dump = options.output / "dump"
    make_dump(DumpOptions(train=2000, validation=1500, test=50, classes=40), dump)
    mids = read_mids(Dump.open(dump).class_list_file)
    train, validation = (Labels.read(dump, mids, split) for split in ("train", "validation"))
    features = features_of(train.table, dump / "images/train")
    noisy_NK, turned = turned_around(train.labels_NK)
    print_label_errors(train, noisy_NK, turned, features, options)
    present_NK = (noisy_NK == POSITIVE).astype(float)
    fitted = fit(features, present_NK)
    groups_K = assign_groups((train.labels_NK != UNOBSERVED).sum(0))
    logits_NK = logits(features_of(validation.table, dump / "images/validation") @ fitted)
    print_review_plan(validation, logits_NK, groups_K, options)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Verified labels of a split, and the truth: N images, K classes."""

    table: LabelTable
    labels_NK: np.ndarray
    truth_NK: np.ndarray

    @classmethod
    def read(cls, directory: Path, mids: Sequence[str], split: str) -> Labels:
        """Read a split of the demo's dump."""
        dump, truth = Dump.open(directory), directory / f"ground_truth/{split}.csv"
        table = read_split(dump, split, mids).table
        labels_NK = table.dense(np.arange(len(table)), len(mids))
        index = {mid: k for k, mid in enumerate(mids)}
        truth_NK = np.zeros_like(labels_NK)
        rows = {name: n for n, name in enumerate(format_image_ids(table.image_ids_N))}
        for line in truth.read_text().splitlines()[1:]:
            image, mid = line.split(",")
            if image in rows:
                truth_NK[rows[image], index[mid]] = POSITIVE
        return cls(table=table, labels_NK=labels_NK, truth_NK=truth_NK)


def features_of(table: LabelTable, folder: Path) -> np.ndarray:
    """Describe each image by a thumbnail and its colours, (N, D)."""
    rows = []
    for image_id in format_image_ids(table.image_ids_N):
        with Image.open(folder / f"{image_id}.jpg") as photo:
            photo.draft("RGB", (40, 40))
            pixels = np.asarray(photo.convert("RGB").resize((40, 40)))
            small = np.asarray(photo.convert("RGB").resize((_SIDE, _SIDE))).ravel() / 255
        bins = (pixels.reshape(-1, 3) // (256 // _COLOURS + 1)) @ [1, _COLOURS, _COLOURS**2]
        colours = np.sqrt(np.bincount(bins, minlength=_COLOURS**3) / len(bins))
        rows.append(np.concatenate([[1.0], small - small.mean(), 5 * colours]))
    return np.stack(rows)


def fit(features_ND: np.ndarray, present_NK: np.ndarray) -> np.ndarray:
    """Fit by ridge regression, unobserved entries as absent, (D, K)."""
    gram = features_ND.T @ features_ND + _RIDGE * np.eye(features_ND.shape[1])
    return np.asarray(np.linalg.solve(gram, features_ND.T @ present_NK))


def logits(values_NK: np.ndarray) -> np.ndarray:
    """Take fitted values as probabilities."""
    p_NK = np.clip(values_NK, _CLIP, 1 - _CLIP) + 1e-4 * values_NK  # no ties beyond the ends
    return np.asarray(np.log(p_NK / (1 - p_NK)), np.float32)


def turned_around(labels_NK: np.ndarray, share: float = 0.03) -> tuple[np.ndarray, int]:
    """Turn a share of the verified labels around; return them and how many."""
    known = np.flatnonzero(labels_NK != UNOBSERVED)
    chosen = np.random.default_rng(0).choice(known, int(share * len(known)), replace=False)
    noisy_NK = labels_NK.copy()
    noisy_NK.flat[chosen] = 1 - noisy_NK.flat[chosen]
    return noisy_NK, len(chosen)


def print_label_errors(
    train: Labels, noisy_NK: np.ndarray, turned: int, features_ND: np.ndarray, options: Options
) -> None:
    """Print the precision of the labels found first, by what the classifier learned."""
    N, K = noisy_NK.shape
    present_NK = (noisy_NK == POSITIVE).astype(float)
    fold_N = np.random.default_rng(1).integers(0, options.folds, N)
    everything = logits(features_ND @ fit(features_ND, present_NK))
    folded = np.empty((N, K), np.float32)
    for fold in range(options.folds):
        out_N = fold_N == fold
        folded[out_N] = logits(features_ND[out_N] @ fit(features_ND[~out_N], present_NK[~out_N]))
    print(f"{turned:,} of {(noisy_NK != UNOBSERVED).sum():,} verified labels are turned around")
    print(f"| judged by | found | {' | '.join(f'P@{d}' for d in DEPTHS)} | recall |")
    print(f"|---|{'---:|' * (len(DEPTHS) + 2)}")
    rows_E, classes_E = np.nonzero(noisy_NK != UNOBSERVED)
    for name, sources in (
        ("a model that learned them", [everything]),
        ("models of the other folds", [folded]),
        ("both", [everything, folded]),
    ):
        opinions = [
            Opinion(
                image_ids_E=rows_E.astype(np.uint64),
                classes_E=classes_E,
                labels_E=noisy_NK[rows_E, classes_E],
                logits_E=source[rows_E, classes_E],
            )
            for source in sources
        ]
        found = label_errors.find(opinions, K)
        truth_N = train.truth_NK[found.image_ids_N.astype(int), found.classes_N]
        wrong_N = truth_N != found.labels_N
        cells = [f"{100 * wrong_N[:d].mean():.0f}" for d in DEPTHS]
        cells.append(f"{100 * wrong_N.sum() / turned:.0f}")
        print(f"| {name} | {len(found):,} | {' | '.join(cells)} |")


@dataclass(frozen=True, kw_only=True)
class Split:
    """All entries of the validation images, flat: E = N K, with their truth.

    ``pool_P`` lists those that may be verified.
    """

    image_ids_E: np.ndarray
    classes_E: np.ndarray
    logits_E: np.ndarray
    truth_E: np.ndarray
    pool_P: np.ndarray

    def interval(self, chosen: np.ndarray, groups_K: np.ndarray) -> tuple[float, float]:
        """Judge by these entries: (mean over groups of half the interval, mean of groups)."""
        scores = Scores(
            image_ids_E=self.image_ids_E[chosen],
            classes_E=self.classes_E[chosen],
            labels_E=self.truth_E[chosen],
            raw_E=self.logits_E[chosen],
            boosted_E=self.logits_E[chosen],
        )
        K = len(groups_K)
        columns = (scores.boosted_E, scores.labels_E, scores.classes_E)
        counts_K = np.bincount(scores.classes_E, minlength=K)
        summary = summarize(average_precision(*columns, K), groups_K, counts_K, counts_K)
        means_RM = bootstrap.resample(scores, groups_K, replicates=100)
        bounds = list(bootstrap.intervals(summary, means_RM).values())[_GROUPS]
        return float(np.mean([b.high - b.low for b in bounds])) / 2, summary.map_of_groups


Strategy = Callable[[Split, np.ndarray, int, np.ndarray, int], np.ndarray]
"""(split, verified entries, budget, groups, seed) -> entries to verify."""


def planned(
    split: Split, chosen: np.ndarray, budget: int, groups_K: np.ndarray, seed: int
) -> np.ndarray:
    """Plan as `candidates --plan` does."""
    scores_E, classes_E = split.logits_E[chosen], split.classes_E[chosen]
    rest = np.setdiff1d(split.pool_P, chosen)
    pool = Pool(
        image_ids_M=split.image_ids_E[rest],
        classes_M=split.classes_E[rest],
        scores_M=split.logits_E[rest],
    )
    known = review_plan.estimate(scores_E, split.truth_E[chosen] == POSITIVE, classes_E, groups_K)
    sequence_N = review_plan.allocate(known, budget, pool.counts(len(groups_K)))
    return rest[review_plan.draw(sequence_N, pool, scores_E, classes_E, seed)]


def at_random(
    split: Split, chosen: np.ndarray, budget: int, groups_K: np.ndarray, seed: int
) -> np.ndarray:
    """Draw any entries that are not verified."""
    rest = np.setdiff1d(split.pool_P, chosen)
    return np.random.default_rng(seed).choice(rest, min(budget, len(rest)), replace=False)


STRATEGIES: dict[str, Strategy] = {"planned": planned, "at random": at_random}
ROUNDS = (0.25, 0.25, 0.5, 0.5, 0.5, 1, 1, 1, 1, 1, 1)
"""Labels of each round of review, in numbers of the first ones."""


def print_review_plan(
    labels: Labels, logits_NK: np.ndarray, groups_K: np.ndarray, options: Options
) -> None:
    """Print how many labels halve the interval, by what is verified next."""
    rows_E, classes_E = (axis.ravel() for axis in np.indices(logits_NK.shape))
    asked = np.flatnonzero(labels.labels_NK.ravel() != UNOBSERVED)
    pools = {"that people were asked about": asked, "of all images": np.arange(len(rows_E))}
    for kind, pool_P in pools.items():
        split = Split(
            image_ids_E=labels.table.image_ids_N[rows_E],
            classes_E=classes_E,
            logits_E=logits_NK.ravel(),
            truth_E=labels.truth_NK.ravel(),
            pool_P=pool_P,
        )
        reference = split.interval(asked, groups_K)[1]
        print(f"\nEntries {kind}; mean of groups by all that were asked: {100 * reference:.1f}")
        print("| verified next | labels that halve the interval | of the first | mAP moves by |")
        print("|---|---:|---:|---:|", flush=True)
        for name, strategy in STRATEGIES.items():
            print(_row(name, strategy, split, asked, reference, groups_K, options), flush=True)


def _row(
    name: str,
    strategy: Strategy,
    split: Split,
    asked: np.ndarray,
    reference: float,
    groups_K: np.ndarray,
    options: Options,
) -> str:
    needed, moved, first = [], [], len(asked) // 10
    for seed in range(options.seeds):
        chosen = np.random.default_rng(seed).choice(asked, first, replace=False)
        more, mean = _until_half(split, chosen, groups_K, strategy, seed)
        needed.append(more)
        moved.append(mean - reference)
    if np.isnan(needed).any():
        cells = f"more than {sum(ROUNDS) * first:,.0f} | |"
    else:
        cells = f"{np.mean(needed):,.0f} ± {np.std(needed, ddof=1):,.0f} "
        cells += f"| {np.mean(needed) / first:.1f} |"
    return f"| {name} | {cells} {100 * np.mean(moved):+.1f} |"


def _until_half(
    split: Split, chosen: np.ndarray, groups_K: np.ndarray, strategy: Strategy, seed: int
) -> tuple[float, float]:
    """Review in rounds until the interval is half as wide: (labels, mAP then).

    Between two rounds the labels are interpolated by 1 / width^2, which grows with them.
    """
    first, (width, _) = len(chosen), split.interval(chosen, groups_K)
    goal, before = width / 2, width
    for number, share in enumerate(ROUNDS):
        labels = len(chosen)
        new = strategy(split, chosen, int(share * first), groups_K, 100 * seed + number)
        chosen = np.concatenate([chosen, new])
        now, mean = split.interval(chosen, groups_K)
        if now <= goal:
            part = (goal**-2 - before**-2) / (now**-2 - before**-2)
            return labels - first + part * len(new), mean
        before = now
    return float("nan"), mean


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
