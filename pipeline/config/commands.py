"""Define the options of the jobs that follow a training: evaluate, predict, export, audit.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from pipeline.config.sections import refuse_outside, refuse_unknown
from sharding.errors import InputError, ignored
from sharding.layout import Split

Decision = Literal["kept", "rejected", "corrected"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
"""What a method may do with an unobserved entry."""
Rule = Literal["boostlu", "imcl", "csl"]
"""Which classes count in a mean; `pipeline.evaluation.metrics.RULES` says how."""
ExportFormat = Literal["safetensors", "pt2", "onnx"]
LabelTool = Literal["label-studio", "fiftyone"]
Ranking = Literal["loss", "disagreement"]
_REPLICATES = 200  # for a registered model
OF_CANDIDATES = (
    *("log", "tools", "epoch", "rank", "confidences"),
    *("min_probability", "min_loss", "decisions"),
)
"""Options of the audit that mean nothing where no candidates are exported."""
_OF_EXPORTS = ("truth", *OF_CANDIDATES, "top")
"""Options of the audit that mean nothing where neither candidates nor label errors are."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One evaluation of one checkpoint."""

    checkpoint: str
    """A run directory, a checkpoint directory, or MLflow's runs:/ID or models:/NAME@ALIAS."""
    dataset: str
    """Dataset directory with the checkpoint's class list."""
    split: Split = "test"
    """Split to score."""
    labels: str | None = None
    """Label version; by default the dataset's own."""
    rule: Rule = "boostlu"
    """Which classes count (see docs/evaluation.md)."""
    batch_size: int = 64
    """Images per step and worker."""
    workers: int | None = None
    """Parallel workers; default: one per GPU, else one per two CPUs."""
    cpus_per_worker: int | None = None
    """Threads of a worker, which show in a CPU's last bits; default: an even share."""
    wait_for_workers: float | None = None
    """Minutes to wait for nodes that the workers need; default: 30 if an autoscaler starts them."""
    experiment: str | None = None
    """MLflow experiment; default: the training run's."""
    cache: str | None = None
    """Where the split's images of a dataset in a bucket are copied to, on each node's own disk;
    default: the training run's."""
    cache_gb: float | None = None
    """Bound of that directory, beyond which a dataset is refused; default: the training run's."""
    intervals: int | None = None
    """Bootstrap replicates for 95 % intervals (200 is usual); default: 200 with --register, else
    none."""
    against: str | None = None
    """Another evaluation of the same split, as MLflow run id or scores.parquet: the difference."""
    attribution: int = 200
    """Images whose maps' scores are counted (the paper's analysis figure); 0 leaves it out."""
    alpha_infer: float | None = None
    """BoostLU slope to score with; default: the checkpoint's."""
    beam: int = 0
    """Of a cnn-rnn run: label sequences kept per image (2 is usual); 0 scores the image alone."""
    boxes: str | None = None
    """CSV of boxes of the split (`annotations-human-bbox.csv`): adds the pointing game."""
    register: str | None = None
    """Upload the model and make it the next version of this registered model; alias: best."""
    thresholds: bool = False
    """Choose a threshold for each class on the validation split; the checkpoint keeps them."""
    precision: float | None = None
    """With --thresholds: the least precision, at the largest recall; by default F1 is maximal."""

    def __post_init__(self) -> None:
        refuse_unknown("rule", self.rule, Rule)
        refuse_outside(
            self, {"precision": "(0, 1]", "alpha_infer": "[1, inf)", "cache_gb": "[0, inf)"}
        )
        if self.thresholds and (self.split != "validation" or self.beam):
            raise InputError(
                f"thresholds are chosen on the validation split, not on {self.split}"
                + (" with a beam" if self.beam else ""),
                fix="pass --split validation and no --beam; the test split then says how they do",
            )
        if self.thresholds and self.alpha_infer is not None:
            raise InputError(
                "thresholds are of the checkpoint's own slope", fix="leave out --alpha-infer"
            )
        if self.precision is not None and not self.thresholds:
            raise InputError("--precision is for --thresholds", fix="pass both")
        if self.register and self.beam:
            raise InputError(
                "a registered model is served without a beam", fix="leave out --beam or --register"
            )
        least = dict.fromkeys(("intervals", "attribution", "beam", "wait_for_workers"), "[0, inf)")
        counts = dict.fromkeys(("batch_size", "workers", "cpus_per_worker"), "[1, inf)")
        refuse_outside(self, {**counts, **least})

    @property
    def replicates(self) -> int:
        """Bootstrap replicates; 0 for no intervals. A registered model's card has them."""
        if self.intervals is None:
            return _REPLICATES if self.register else 0
        return self.intervals


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict the labels of many images; repeat the command to continue."""

    checkpoint: str
    """A run directory, a checkpoint directory, or MLflow's runs:/ID or models:/NAME@ALIAS."""
    output: str
    """Directory that every worker sees, or a bucket (s3://, gs://), for part-*.parquet and, last,
    _SUCCESS."""
    dataset: str | None = None
    """Predict a split of this dataset (directory or URL),"""
    split: Split = "test"
    """namely this one;"""
    images: str | None = None
    """or every image below this folder or URL;"""
    urls: Path | None = None
    """or the URLs and paths in this text file, one a line."""
    top_k: int = 10
    """Labels kept per image, best first; 0 keeps all that pass the threshold."""
    threshold: float | None = None
    """Least probability of a label that is kept; by default the model's own threshold of each
    class (evaluate --thresholds) where it has them, else 0."""
    cams: int = 0
    """Draw the activation maps of this many best labels per image (slow; in output/_cams)."""
    images_per_part: int = 1000
    """Images per Parquet file where the input is a folder or a list; else a file per shard."""
    batch_size: int = 32
    """Images per forward pass."""
    workers: int | None = None
    """Parallel workers; default: one per GPU, else one per two CPUs."""
    wait_for_workers: float | None = None
    """Minutes to wait for nodes that the workers need; default: 30 if an autoscaler starts them."""
    max_minutes: float | None = None
    """Images not read by then are left to a repeated command, however slow their hosts are."""

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.dataset, self.images, self.urls)) != 1:
            raise InputError("what should be predicted?", fix="pass --dataset, --images or --urls")
        counts = dict.fromkeys(("top_k", "cams", "wait_for_workers"), "[0, inf)")
        sizes = dict.fromkeys(("images_per_part", "batch_size", "workers"), "[1, inf)")
        others = {"threshold": "[0, 1)", "max_minutes": "(0, inf)"}
        refuse_outside(self, {**counts, **sizes, **others})


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and where to."""

    checkpoint: str
    """A run directory, a checkpoint directory, or MLflow's runs:/ID or models:/NAME@ALIAS."""
    output: Path
    """Directory for model.safetensors, model.pt2, model.onnx and model.json (how to use them)."""
    formats: tuple[ExportFormat, ...] = get_args(ExportFormat)
    """Which of them."""

    def __post_init__(self) -> None:
        if not self.formats:
            raise InputError("no format", fix="name one or more of --formats, or leave it out")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Which label candidates to export, where to, and what to judge them by."""

    run: str
    """Directory (or URL) of a training run."""
    output: Path | None = None
    """Directory for train.csv and sheet.html; default: export-RUN-epoch-NNN."""
    dataset: str | None = None
    """Dataset that has the images; default: the one that was trained on."""
    cache: str | None = None
    """Where a dataset from a bucket is copied to; default: the run's."""
    cache_gb: float | None = None
    """Bound of that directory; default: the run's."""
    epoch: int | None = None
    """Whose candidates; default: the last one's."""
    rank: Ranking = "loss"
    """What comes first: the largest loss, or the largest disagreement of network and machine."""
    confidences: str | None = None
    """Version of machine confidences to show; default: the one trained with, if any."""
    top: int = 100
    """Most candidates exported, the first of them; a sheet of 2000 has at most 15 MB."""
    min_probability: float = 0.0
    """Least probability of a candidate that is exported."""
    min_loss: float = 0.0
    """Least loss of a candidate that is exported."""
    decisions: tuple[Decision, ...] = DECISIONS
    """Export only what the method decided so."""
    sheet: bool = True
    """Write the review sheet as well; it takes a forward pass per image."""
    tools: tuple[LabelTool, ...] = ()
    """Write the candidates for these tools as well, and their pictures to data/."""
    checkpoint: str | None = None
    """Whose activation maps or corrections; default: the run's best."""
    corrections: bool = False
    """Write what ll-cp corrected for good, all of it, to train.csv instead of candidates."""
    truth: str | None = None
    """Labels known in full: a label version, a dump, or a folder like the demo's ground_truth."""
    log: bool = False
    """With --truth: add precision and recall to the run's curves in MLflow."""

    scores: tuple[str, ...] = ()
    """Evaluations of one split, as MLflow run ids or scores.parquet: adds the verified labels that
    all of them contradict."""
    held_out: bool = False
    """With --scores of the training split: let a network judge only labels that it did not train
    on."""
    plan: int | None = None
    """Instead, plan which labels to verify next, so many, so that the intervals of --scores shrink
    most."""
    pool: str | None = None
    """With --plan: predictions of the split (`predict --dataset`), to draw the entries from."""

    def __post_init__(self) -> None:
        least = {"min_probability": "[0, 1]", "min_loss": "[0, inf)", "cache_gb": "[0, inf)"}
        refuse_outside(self, {"top": "[1, inf)", "plan": "[1, inf)", **least})
        if (self.plan is not None or self.held_out) and not self.scores:
            option = "--held-out" if self.plan is None else "--plan"
            raise InputError(f"{option} is of an evaluation", fix="pass --scores, an MLflow run id")
        if self.plan is not None and len(self.scores) > 1:
            raise InputError("--plan is for one evaluation", fix="pass one --scores")
        if self.pool is not None and self.plan is None:
            raise InputError("--pool is for --plan", fix="pass both")
        if self.plan is not None:
            self._refuse_ignored("--plan", "held_out", *_OF_EXPORTS)
        if self.corrections:
            self._refuse_ignored("--corrections", "scores", *_OF_EXPORTS)
        if self.log and self.truth is None:
            raise InputError("--log is of what --truth judges", fix="pass both")

    def given(self, *names: str) -> list[str]:
        """List, as they are written, those of these options that have not their default value."""
        defaults = {field.name: field.default for field in fields(self)}
        given = [name for name in names if getattr(self, name) != defaults[name]]
        return [f"--{name.replace('_', '-')}" for name in given]

    def _refuse_ignored(self, beside: str, *names: str) -> None:
        """Refuse options that are given beside one that leaves nothing for them to do."""
        if given := self.given(*names):
            raise ignored(given, f" with {beside}")
