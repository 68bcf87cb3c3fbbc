"""Summarise what a job did: counts on a few aligned lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharding.classes import NUM_GROUPS, ClassTable
from sharding.dataset.quarantine import Quarantine
from sharding.errors import command
from sharding.layout import GROUPS_OF, QUARANTINE_FILE, SPLITS, wanted_path
from sharding.log import count
from sharding.manifest import Dataset
from sharding.manifest_parts import LabelVersion
from sharding.openimages.row_status import MOST_LISTED, REJECTED

_NOT_LABELS = {
    "listed_without_rows": "images of the lists that nobody labelled (left out)",
    "unknown_mid": "rows outside the class list",
    "outside_the_class_list": "labels of classes outside the class list",
    "duplicates": "rows said before",
    "conflicts": "classes of an image disputed",
}
"""Counts in a label version's report of what gave no label without being rejected, in words."""
_OF_COLLECTIONS = {"bad_rows": "bad rows", "listed_twice": "listed twice"}
"""Counts in a label version's report of rows that importers rejected, in words."""
REVIEWED_NEW, REVIEWED_CONFIRMED = "reviewed_new", "reviewed_confirmed"
REVIEWED_TO_POSITIVE, REVIEWED_TO_NEGATIVE = "reviewed_to_positive", "reviewed_to_negative"
_ANSWERS = {
    REVIEWED_NEW: "new",
    REVIEWED_CONFIRMED: "confirmed",
    REVIEWED_TO_POSITIVE: "turned positive",
    REVIEWED_TO_NEGATIVE: "turned negative",
}
"""Counts in a label version's report of what a review said of the labels before it, in words."""

_FEW_IMAGES = 10_000


def try_training(dataset: Dataset, location: str, labels: str | None = None) -> str:
    """Write the command that shows what a training on a dataset would do.

    A small one gets the preset that a laptop can train, and complete labels the method for them.

    Args:
        dataset: what is there.
        location: its directory or URL.
        labels: name of the label version; by default the dataset's own.
    """
    images = sum(s.images for s in dataset.manifest.shards if s.split == "train")
    preset = ("--preset", "demo") if images < _FEW_IMAGES else ()
    method = ("--method", "full") if dataset.is_complete(labels) else ()
    version = () if labels is None else ("--labels", labels)
    return command("train", *preset, *method, "--dataset", location, *version, "--dry-run")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Describe a finished dataset in numbers.

    Attributes:
        location: directory or URL of the dataset.
        dataset: as it is now.
        reasons: number of quarantined images and rows by reason.
        seconds: the job took; None where there was nothing to do.
        continued: shards that an earlier run had finished.
        how: images by what was done to them.
        forgotten: entries of a lost quarantine that did not come back.
        confidences: what is said of those written with it.
    """

    location: str
    dataset: Dataset
    reasons: Mapping[str, int]
    seconds: float | None
    continued: int = 0
    how: Mapping[str, int] = field(default_factory=dict)
    forgotten: int = 0
    confidences: str = ""

    def __str__(self) -> str:
        if self.seconds is None:
            first = f"{self.location} is already finished; nothing was done."
        else:
            first = f"{self.location} is finished, in {self.seconds:.1f} s."
        rows = [*self._splits(), ("groups", self._groups())]
        if self.how:
            rows.append(("pixels", ", ".join(f"{n:,} {how}" for how, n in self.how.items())))
        if self.continued:
            rows.append(("continued", f"{count(self.continued, 'shard')} finished before"))
        _, version = self.dataset.label_version()
        rows += [*_not_labels(version), ("set aside", self._set_aside())]
        if self.reasons:
            rows.append(("to see it", command("view", "--dataset", self.location, "--reason", "")))
        if self.forgotten:
            lost = f"{self.forgotten:,} more that later commands set aside: repeat those"
            rows.append(("forgotten", lost))
        rows.append(("next", command("verify", "--dataset", self.location)))
        return "\n".join(filter(None, (aligned(first, rows), self.confidences)))

    def _splits(self) -> list[tuple[str, str]]:
        manifest = self.dataset.manifest
        rows = []
        files = manifest.labels[manifest.default_labels].splits
        for split, labels in sorted(files.items(), key=lambda item: SPLITS.index(item[0])):
            shards = [shard for shard in manifest.shards if shard.split == split]
            size = sum(shard.bytes for shard in shards) / 1e6
            text = (
                f"{count(labels.images, 'image')} in {count(len(shards), 'shard')} "
                f"({size:,.1f} MB), {labels.positives:,} positive and "
                f"{labels.negatives:,} negative labels"
            )
            rows.append((split, text))
        if "test" not in files:
            rows.append(("test", "none: evaluate with --split validation"))
        return rows

    def _groups(self) -> str:
        splits = self.dataset.manifest.created_by.get(GROUPS_OF)
        remark = "" if splits is None else f", counted in {splits}: there are no train labels"
        if never := int((self.dataset.classes.positives_K == 0).sum()):
            remark += f"; {never:,} of them without a positive"
        return f"{_group_ranges(self.dataset.classes)}{remark}"

    def _set_aside(self) -> str:
        if not self.reasons:
            return "nothing"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        return f"{reasons} (listed in {QUARANTINE_FILE})"


def summarise(
    dataset: Dataset,
    *,
    location: str,
    seconds: float | None,
    continued: int = 0,
    how: Mapping[str, int] | None = None,
    forgotten: int = 0,
) -> Summary:
    """Count what was set aside by reason, and put it with the numbers of a job."""
    return Summary(
        location=location,
        dataset=dataset,
        reasons=_count_reasons(dataset),
        seconds=seconds,
        continued=continued,
        how=how or {},
        forgotten=forgotten,
    )


def _not_labels(version: LabelVersion) -> list[tuple[str, str]]:
    """Count the rows that are in order and yet no label, and the images without any."""
    reports = version.report.values()
    counts = {text: sum(r.get(key, 0) for r in reports) for key, text in _NOT_LABELS.items()}
    text = ", ".join(f"{number:,} {text}" for text, number in counts.items() if number)
    return [("no label", text)] if text else []


def _count_reasons(dataset: Dataset) -> dict[str, int]:
    """Count the reasons in the quarantine; for rejected rows, of which it has the first, all."""
    entries = Quarantine.read(dataset.directory / QUARANTINE_FILE).entries
    reasons = Counter(entry.reason.partition(":")[0] for entry in entries)
    versions = dataset.manifest.labels.values()
    reports = [report for version in versions for report in version.report.values()]
    reasons = Counter({**reasons, **_count_rejected(reports)})
    _, default = dataset.label_version()
    imported = (report.get("bad_rows", 0) for report in default.report.values())
    reasons["bad rows not listed"] = sum(max(0, number - MOST_LISTED) for number in imported)
    return dict((+reasons).most_common())


def _count_rejected(reports: Collection[Mapping[str, int]]) -> Counter[str]:
    """Count all rows that were rejected, by their status."""
    return Counter({s.key: sum(report.get(s.key, 0) for report in reports) for s in REJECTED})


def _group_ranges(classes: ClassTable) -> str:
    """Give the range of training annotations of a class in each group."""
    counts_K = classes.grouped_counts_K
    parts = []
    for group in range(1, NUM_GROUPS + 1):
        members = counts_K[classes.groups_K == group]
        if len(members):
            parts.append(f"{group}: {members.min():,}-{members.max():,}")
    return f"{count(len(classes), 'class')} by {classes.group_by} " + ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Resharded:
    """Describe what re-sharding did.

    Attributes:
        location: directory or URL of the dataset.
        dataset: as it is now.
        name: of the label version.
        diff: content of `diff.json`, empty where there was nothing to compare with.
        added: images that got pixels.
        rewritten: tars that were replaced.
        seconds: it took.
    """

    location: str
    dataset: Dataset
    name: str
    diff: Mapping[str, Any]
    added: int
    rewritten: int
    seconds: float

    @property
    def wanted(self) -> dict[str, int]:
        """Labelled images without pixels by split."""
        files = self.dataset.manifest.labels[self.name].splits
        return {split: file.images_without_pixels for split, file in files.items()}

    def __str__(self) -> str:
        tars = f"{count(self.rewritten, 'tar')} rewritten" if self.rewritten else "tars untouched"
        first = (
            f"labels {self.name} of {self.location} are written, in {self.seconds:.1f} s; {tars}."
        )
        rows = [
            (
                split,
                f"{count(file.images, 'image')}, {file.positives:,} positive and "
                f"{file.negatives:,} negative labels{self._changes(split)}",
            )
            for split, file in self.dataset.manifest.labels[self.name].splits.items()
        ]
        for split, report in self.dataset.manifest.labels[self.name].report.items():
            if conflicts := report.get("derived_conflicts", 0) + report.get("derived_both_ways", 0):
                text = f"{conflicts:,} implied labels left out: against others of their image"
                rows.append((split, text))
        for split, report in self.dataset.manifest.labels[self.name].report.items():
            if any(report.get(key) for key in _ANSWERS):
                base = self.dataset.manifest.labels[self.name].policy["base"]
                said = ", ".join(f"{report[key]:,} {text}" for key, text in _ANSWERS.items())
                rows.append(("reviewed", f"{said} in {split}, over labels {base}"))
        if "classes" in self.diff:
            rows.append(("classes", self._classes()))
        if self.diff:
            new, gone = self._images("new"), self._images("gone")
            rows.append(("labelled", f"{new:,} images that had no label, {gone:,} have none now"))
        if self.added:
            rows.append(("images", f"{self.added:,} got pixels, in shards of their own"))
        version = self.dataset.manifest.labels[self.name]
        rows += _not_labels(version)
        rejected = _count_rejected(version.report.values())
        for key, words in _OF_COLLECTIONS.items():
            rejected[words] = sum(report.get(key, 0) for report in version.report.values())
        if rejected := +rejected:
            text = ", ".join(f"{number:,} {key}" for key, number in rejected.most_common())
            rows.append(("set aside", f"{text} (listed in {QUARANTINE_FILE})"))
        if missing := sum(self.wanted.values()):
            text = f"{missing:,} labelled images, listed in {wanted_path(self.name)}"
            if self.diff:
                before, now = self._images("missing_before"), self._images("now_needing_pixels")
                text += f": {now:,} need them now, {before:,} were missing before"
            rows.append(("no pixels", text))
        rows.append(("training", f"repeat your command with --labels {self.name} and a new --run"))
        rows.append(("next", try_training(self.dataset, self.location, self.name)))
        return aligned(first, rows)

    def _changes(self, split: str) -> str:
        totals = self.diff.get("splits", {}).get(split)
        if totals is None:
            return ""
        added, removed, flipped = (
            sum(n for key, n in totals.items() if key.startswith(f"labels_{verb}"))
            for verb in ("added", "removed", "flipped")
        )
        return (
            f" ({added:,} added, {removed:,} removed, {flipped:,} flipped "
            f"against {self.diff['against']})"
        )

    def _classes(self) -> str:
        lists = self.diff["classes"]
        if lists is None:
            return "the dump has no list of them; its labels went by the dataset's"
        return (
            f"{lists['kept']:,} in both lists, {len(lists['dropped']):,} only in the dataset's, "
            f"{len(lists['added']):,} only in the dump's (left out)"
        )

    def _images(self, key: str) -> int:
        return sum(totals[f"images_{key}"] for totals in self.diff["splits"].values())


def aligned(first: str, rows: Sequence[tuple[str, str]]) -> str:
    """Write a line, and below it rows of a name and a text."""
    return "\n".join([first, *(f"  {name:<12} {text}" for name, text in rows)])
