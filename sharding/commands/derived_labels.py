"""Make a label version from another: known or single labels drawn, or a hierarchy's closure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sharding.commands.option_checks import refuse_version_name
from sharding.commands.options import ReshardOptions
from sharding.dataset.label_versions import NewLabels, all_labels
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.maintenance.derive import close, keep_known, keep_single_positive
from sharding.manifest import Dataset
from sharding.openimages.annotations import SplitLabels
from sharding.openimages.hierarchy import read_hierarchy
from sharding.storage.files import sha256_of

Rule = Callable[[LabelTable], tuple[LabelTable, dict[str, int]]]


def derive_labels(dataset: Dataset, options: ReshardOptions) -> NewLabels:
    """Derive the labels of the splits asked for; the others keep those of the base.

    The policy records base and rule. The base stays as it is, so that what was added or left out
    is the difference of the two, and the way back is to name the base.

    Raises:
        InputError: there is no such base, its labels cannot be read, or the hierarchy cannot.
    """
    base, version = dataset.label_version(options.base)
    rule, record, suffix = _rule(dataset, options)
    name = options.name or f"{base}-{suffix}"
    refuse_version_name(name)
    sources = dict(version.sources)
    if options.hierarchy is not None:
        sources[options.hierarchy.name] = sha256_of(options.hierarchy)
    splits = {}
    for split in version.splits:
        table, report = all_labels(dataset, split, base), dict[str, int]()
        if split in options.splits:
            table, report = rule(table)
        splits[split] = labels_of_table(dataset, table, report, sources)
    policy = {"base": base, "derived": {**record, "splits": sorted(options.splits)}}
    return NewLabels(name=name, release="derived", policy=policy, splits=splits)


def labels_of_table(
    dataset: Dataset,
    table: LabelTable,
    report: Mapping[str, int] | None = None,
    sources: Mapping[str, str] | None = None,
) -> SplitLabels:
    """Wrap a table that was made of no annotation rows."""
    return SplitLabels(
        table=table,
        report=report or {},
        unknown_mids={},
        rejected_rows=(),
        sources=sources or {},
        human_positives_K=dataset.classes.positives_K,
        human_negatives_K=dataset.classes.negatives_K,
    )


def _rule(dataset: Dataset, options: ReshardOptions) -> tuple[Rule, dict[str, Any], str]:
    """Choose the rule; returns it with its record for the manifest and its part of a name."""
    draw = options.draw
    if options.hierarchy is not None:
        hierarchy = read_hierarchy(options.hierarchy, dataset.classes.mids)
        return lambda table: close(table, hierarchy), {"hierarchy": True}, "hierarchy"
    if options.known is not None:
        share = options.known
        rule = _counting(lambda table: keep_known(table, share, draw))
        return rule, {"known": share, "draw": draw}, f"known-{share:g}-draw-{draw}"
    rule = _counting(lambda table: keep_single_positive(table, draw))
    return rule, {"single_positive": True, "draw": draw}, f"single-positive-draw-{draw}"


def _counting(draw: Callable[[LabelTable], LabelTable]) -> Rule:
    """Report how many labels a draw left out."""

    def drawn(table: LabelTable) -> tuple[LabelTable, dict[str, int]]:
        kept = draw(table)
        if len(table.classes_E) > len(kept.classes_E) == 0:
            raise InputError(
                "no label would be left in a split",
                fix="give --known a larger share, or other --splits",
            )
        return kept, {"derived_left_out": len(table.classes_E) - len(kept.classes_E)}

    return drawn
