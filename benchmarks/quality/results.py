"""Run studies of what the methods reach where it can be measured, and write a page of results.

    python -m benchmarks.quality.results --only methods

A finished study is not run again, and one that was stopped goes on, on another machine too: what
came out of each run is kept beside the page. The page gets the studies that are finished below
``--work``, whatever they say; the others stay on it as they are.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from benchmarks.quality import analysis, kept, study_data
from pipeline.config.study import StudyConfig
from pipeline.inference import cam_figures
from pipeline.study import run as studies
from pipeline.study.figure import intervals
from pipeline.study.statistics import Estimate, estimate
from pipeline.study.table import StudyTable, tabulate
from pipeline.tables import MAP_COLUMNS, Table, half_width, signed

StudyName = Literal["methods", "groups", "photographs"]
_FACTS = re.compile(r"^# .*?\n\n(.*?)\n\n## All classes\n\n(.*)", re.DOTALL)
_GROUPS = ("group_1", "group_5")
_ABOUT = """# Results

What the methods reach on collections that can be measured here, good or bad, from
[studies](study.md): mean of the seeds with the half width of its 95 % interval, differences paired
by seed, p-values adjusted by Holm. A row is a method and BoostLU's slopes in training/inference;
1 is without. An order that the paper claims is *confirmed* or *refuted* where
the interval of the difference leaves out 0, else *undecided*."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which studies to run, and where."""

    work: Path = Path("results")
    """Directory for collections and studies; 2 GB."""
    only: tuple[StudyName, ...] = ()
    """Studies to run; default: all."""
    page: Path = Path("docs/results.md")
    """Page to write, or to extend."""
    shared: Path = Path("../shared/data")
    """Directory with corel5k/ and weights/, for the study photographs."""
    render: bool = False
    """Write the tables of what has been run, and run nothing."""

    def numbers(self, name: str) -> Path:
        """Name the file beside the page with what came out of each run of a study."""
        return self.page.with_suffix("") / f"{name}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study of the page.

    Attributes:
        title, about: heading and introduction of its part.
        collection: that it trains on; `benchmarks.quality.study_data` makes it.
        rows, train: of the study.
        order: pairs of rows of which the paper says that the first is better.
        analysed: whether networks are looked into (`benchmarks.quality.analysis`).
        group_effect: pairs of which it says that the first gains more on the second in the group
            of the fewest labels than in that of the most.
        preset: of the study, if any.
        draw_per_seed: whether each seed draws one positive per image.
    """

    title: str
    about: str
    collection: str
    rows: Sequence[str]
    order: Sequence[tuple[str, str]]
    train: Sequence[str] = ()
    preset: str | None = None
    draw_per_seed: bool = False
    group_effect: Sequence[tuple[str, str]] = ()
    analysed: bool = False
    seeds: int = 3

    def config(self, name: str, options: Options) -> StudyConfig:
        """Configure the study as its command would."""
        weights = options.work / "photographs" / study_data.WEIGHTS
        return StudyConfig(
            dataset=str(options.work / self.collection / "dataset"),
            output=str(options.work / name),
            rows=tuple(self.rows),
            preset=self.preset,
            train=tuple(text.format(weights=weights.resolve()) for text in self.train),
            seeds=self.seeds,
            draw_per_seed=self.draw_per_seed,
        )


_SMALLER = ("workers=1", "image_size=64")
_PAPER = (("ll-r@5/5", "ll-r@1/1"), ("ll-r@1/1", "an@1/1"))
_FULL = (("full@1/1", "ll-r@5/5"), *_PAPER)
_PHOTOGRAPHS = (
    *("backbone=mobilenet_v2", "weights={weights}", "image_size=112", "batch_size=32"),
    *("learning_rate=1e-4", "head_multiplier=10", "epochs=5", "crop=random-resized", "workers=1"),
)
STUDIES: Mapping[StudyName, Study] = {
    "methods": Study(
        title="The demo's collection: the paper's ablation, and every method of its tables",
        about="Drawn pictures of 60 classes with label statistics like those of Open Images; the "
        "demo's small ResNet from random weights at 64 px; `full` is trained on the complete "
        "truth. `hill`, `splc` and `gr` are newer than the paper.",
        collection="demo",
        preset="demo",
        rows=(
            *("ablation", "full@1/1", "ls@1/1", "asl@1/1", "role:expected_num_pos=4@1/1"),
            # Phases as long as six epochs of a network without weights leave them.
            "role-li:expected_num_pos=4,linear_epochs=1,linear_rate=1@1/1",
            *("em@1/1", "em-apl:warmup_epochs=2@1/1", "cnn-rnn@1/1", "curriculum@1/1"),
            *("imcl@1/1", "p-asl@1/1"),
            *("ll-ct@1/1", "ll-ct@5/5", "ll-cp@1/1", "ll-cp@5/5"),
            *("hill@1/1", "splc@1/1", "gr@1/1"),
        ),
        order=_FULL,
        train=_SMALLER,
        analysed=True,
    ),
    "groups": Study(
        title="A thousand classes in five groups",
        about="Drawn pictures of 1,000 classes, each a shape, a colour and a texture, of which the "
        "most frequent is 200 times as frequent as the rarest. As in Open Images V3 a training "
        "picture has 2.7 positive and 2.9 negative labels, and classes are grouped by their number "
        "of labels, 200 in each group (1: the fewest). Everything present in a test picture is "
        "verified. The demo's network at 64 px. Large Loss selects a share of all entries: the "
        "demo's 0.2 % more per epoch is 10 entries of a picture in the last one, where about 1.4 "
        "labels are missing; 0.02 % is 1.",
        collection="groups",
        preset="demo",
        rows=(
            *("full@1/1", "an@1/1", "ll-r@1/1", "ll-r@1/5", "ll-r@5/5"),
            *(f"ll-r:delta_rel=0.02@{slopes}" for slopes in ("1/1", "1/5", "5/5")),
        ),
        order=(
            *_FULL,
            ("full@1/1", "ll-r:delta_rel=0.02@5/5"),
            ("ll-r:delta_rel=0.02@5/5", "ll-r:delta_rel=0.02@1/1"),
            ("ll-r:delta_rel=0.02@1/1", "an@1/1"),
        ),
        group_effect=(
            ("ll-r@5/5", "ll-r@1/1"),
            ("ll-r:delta_rel=0.02@5/5", "ll-r:delta_rel=0.02@1/1"),
        ),
        train=_SMALLER,
    ),
    "photographs": Study(
        title="Photographs with one positive label each",
        about="Corel 5k: 4,932 photographs of 192 x 128 pixels, 81 keywords that 50 or more of "
        "them have, 2.8 per photograph. Training photographs (3,453) keep one keyword, drawn anew "
        "for every seed, and no negative; validation (493) and test (986) keep all. MobileNetV2 "
        "from ImageNet weights at 112 px. The pictures may not be published, numbers may: "
        "`--shared` names the folder that has them (`corel5k/`) and the weights (`weights/`).",
        collection="photographs",
        rows=(
            *("full@1/1", "full@1/5", "an@1/1", "an@1/5", "ll-r@1/1", "ll-r@1/5", "ll-r@5/5"),
            *("gr@1/1", "gr@1/5"),
        ),
        order=_FULL,
        train=_PHOTOGRAPHS,
        draw_per_seed=True,
    ),
}


def main(options: Options) -> None:
    """Make what is missing, run the studies, write the page."""
    for name in options.only or STUDIES:
        study, directory = STUDIES[name], options.work / name
        kept.restore(options.numbers(name), directory)
        try:
            if not options.render:
                study_data.make(study.collection, options.work, options.shared)
                command = shlex.split(studies.command_of(study.config(name, options)))
                subprocess.run([sys.executable, "-m", "pipeline", *command[1:]], check=True)
            if study.analysed and directory.is_dir():
                analysis.looks(*studies.prepare(study.config(name, options)))
        finally:
            kept.save(directory, options.numbers(name))
        finished = [each for each in STUDIES if (options.work / each / "study.md").is_file()]
        parts = {STUDIES[each].title: part(each, STUDIES[each], options) for each in finished}
        before = options.page.read_text(encoding="utf-8") if options.page.is_file() else ""
        options.page.write_text(extended(before, parts), encoding="utf-8")


def extended(page: str, parts: Mapping[str, str]) -> str:
    """Write the page with parts, by title, in place of those of the same title."""
    there = {text.partition("\n")[0]: text.strip() for text in re.split(r"^## ", page, flags=re.M)}
    kept = {title: f"## {text}" for title, text in there.items()} | dict(parts)
    titles = (study.title for study in STUDIES.values())
    return "\n\n".join([_ABOUT, *(kept[title] for title in titles if title in kept)]) + "\n"


def part(name: str, study: Study, options: Options) -> str:
    """Write a study's facts and tables, and what they say of the paper's order."""
    config = study.config(name, options)
    written = (options.work / name / "study.md").read_text(encoding="utf-8")
    found = _FACTS.match(written)
    assert found is not None
    facts, tables = found.groups()
    # Workers need whole paths; a reader has other directories.
    facts = facts.replace(str(options.work.resolve()), "results")
    facts += f"\n- all of it: `make results STUDIES={name}`, seeds 0 to {study.seeds - 1}"
    numbers = options.numbers(name).relative_to(options.page.parent)
    facts += f"\n- each run's configuration and numbers: [{numbers.name}]({numbers.as_posix()})"
    summary, *more = tables.strip().split("\n## ")
    picture = options.page.parent / "images" / f"results-{name}.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(cam_figures.png(intervals(table_of(config)), study.title))
    shown = f"![Means, intervals and single runs of every row](images/{picture.name})"
    says = [summary, shown, "### The paper's order", order(config, study), hurts(config)]
    if study.analysed:
        says.append(analysis.tables(*studies.prepare(config)))
    says += [f"### {table}" for table in more]
    return "\n\n".join([f"## {study.title}", study.about, facts, *map(str.strip, says)])


def table_of(config: StudyConfig) -> StudyTable:
    """Tabulate what a study has found so far."""
    config, planned = studies.prepare(config)
    return tabulate(planned, studies.read_records(config, planned))


def order(config: StudyConfig, study: Study) -> str:
    """Say of each claim of the paper whether it is confirmed, refuted or undecided."""
    of = {line.row.label: line.values for line in table_of(config).own}
    claims = {
        f"{better} above {worse}": of[better]["all"] - of[worse]["all"]
        for better, worse in study.order
    }
    for better, worse in study.group_effect:
        gains = {name: of[better][name] - of[worse][name] for name in _GROUPS}
        claims[f"{better} gains more on {worse} in group 1 than in group 5"] = np.subtract(
            *gains.values()
        )
    rows = []
    for claim, differences_SD in claims.items():
        found = estimate(differences_SD)
        shown = f"{signed(found.mean)} {half_width(found.low, found.high)}"
        rows.append([claim, shown, verdict(found)])
    headers = ["", "difference, points of mAP", "by its 95 % interval"]
    return Table(headers=headers, sections=[rows]).markdown()


def hurts(config: StudyConfig) -> str:
    """Say where the 95 % interval of what BoostLU adds at inference is below 0."""
    worse = [
        f"{label} in {MAP_COLUMNS[name]} ({signed(gain.mean)} {half_width(gain.low, gain.high)})"
        for label, gains in table_of(config).gains.items()
        for name, gain in gains.items()
        if gain.high < 0
    ]
    found = ", ".join(worse) or "no row, in no group"
    return f"The 95 % interval of what BoostLU adds at inference is below 0 for {found}."


def verdict(difference: Estimate) -> str:
    """Name what an interval says of a claim that the difference is above 0."""
    if difference.low > 0:
        return "confirmed"
    return "refuted" if difference.high < 0 else "undecided"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
