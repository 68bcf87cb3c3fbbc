"""What is told of an evaluation: intervals, the papers' rows, the difference from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline import bootstrap, significance, targets
from pipeline.bootstrap import Interval
from pipeline.config import EvaluateConfig
from pipeline.evaluate import BOOST_ON
from pipeline.evaluation import Evaluation
from pipeline.report import Comparison, Report
from pipeline.targets import Published
from sharding.errors import InputError
from sharding.structured import tell

# The papers' tables are of the test split with this many trainable classes.
_PAPERS_RELEASE, _PAPERS_SPLIT, _PAPERS_CLASSES = "v3", "test", 5000


def report(found: Evaluation, config: EvaluateConfig) -> Report:
    """The evaluation with everything that its configuration asks for."""
    maps, groups_K = found.maps, found.classes.groups_K
    return Report(
        summaries=found.summaries,
        intervals=_intervals(found, config),
        published=published(found, config.split),
        comparison=_comparison(found, config),
        pointing_game=maps.pointing_game(groups_K) if maps else {},
    )


def published(found: Evaluation, split: str) -> Sequence[Published]:
    """The papers' rows for this method, where what was evaluated is what theirs are of."""
    evaluated = (found.release, split, len(found.classes))
    if evaluated != (_PAPERS_RELEASE, _PAPERS_SPLIT, _PAPERS_CLASSES):
        return ()
    try:
        return targets.published(found.meta.train_config.method)
    except InputError:  # a method that the papers' table does not have
        return ()


def _intervals(found: Evaluation, config: EvaluateConfig) -> Mapping[str, Mapping[str, Interval]]:
    """95 % intervals of every mean by name of summary, none where none are asked for."""
    if not config.intervals:
        return {}
    groups_K = found.classes.groups_K
    return {
        name: bootstrap.intervals(
            summary,
            bootstrap.resample(
                found.score_file.judged(boosted=name == BOOST_ON),
                groups_K,
                rule=config.rule,
                replicates=config.intervals,
            ),
        )
        for name, summary in found.summaries.items()
    }


def _comparison(found: Evaluation, config: EvaluateConfig) -> Comparison | None:
    if found.rival is None:
        return None
    theirs, ours = (file.judged(boosted=True) for file in (found.rival.scores, found.score_file))
    try:
        differences = significance.compare(theirs, ours, found.classes.groups_K, rule=config.rule)
    except InputError as error:  # an image that only one of them could read: no reason to end
        tell(f"no comparison with {found.rival.name}: {error}", "WARNING")
        return None
    return Comparison(first=found.rival.name, second="this run", differences=differences)
