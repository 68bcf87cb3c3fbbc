"""Put a job's options into groups with titles, which tyro makes of nested dataclasses alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from pipeline.config import refusals

_SHARDS = {
    "shard": ("images_per_shard", "shard_bytes", "ranks", "seed", "placement_seed"),
    "image": ("shorter_side", "quality", "max_pixels", "trust_images", "rotations"),
    "label": ("release", "name", "conflict", "machine", "group_by", "single_positive", "unlisted"),
    "split": ("split_seed", "validation_share", "test_share"),
    "csv": ("table", *(f"{c}_column" for c in ("image", "labels", "negatives", "split"))),
    "job": ("workers", "scratch", "strict", "retry_failed"),
}
GROUPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "ShardOptions": _SHARDS,
    "ImportOptions": {
        **_SHARDS,
        "shard": ("images_per_shard", "ranks", "placement_seed"),
        "csv": (*_SHARDS["csv"], "separator", "classes"),
    },
    "TrainConfig": {
        "run": ("storage", "experiment", "seed", "max_steps"),
        "cluster": (
            *("workers", "parallel", "cpus_per_worker", "wait_for_workers", "cache", "cache_gb"),
        ),
        "result": (
            *("keep_checkpoints", "checkpoint_every", "async_validation", "log_model"),
            *("candidates_per_epoch", "profile"),
        ),
    },
    "EvaluateConfig": {
        "report": ("rule", "intervals", "against", "attribution", "beam", "boxes"),
        "job": ("batch_size", "workers", "wait_for_workers", "experiment", "register"),
        "operation": ("thresholds", "precision"),
    },
    "PredictConfig": {
        "input": ("dataset", "split", "images", "urls"),
        "label": ("top_k", "threshold", "cams"),
        "job": ("images_per_part", "batch_size", "workers", "wait_for_workers"),
    },
    "AuditConfig": {
        "candidate": ("epoch", "top", "min_probability", "min_loss", "decisions", "corrections"),
        "judgement": ("truth", "log"),
    },
}
"""Options by title of their group, of the classes that have many; others stand before the groups.
A title is no option's name."""


def parse(kind: Any, default: Any = None, more_flags: Sequence[str] = (), **how: Any) -> Any:
    """Parse a dataclass of options as `tyro.cli` does, which shows them in `GROUPS`.

    Args:
        kind: the dataclass.
        default: an instance whose values take the place of the defaults.
        more_flags: what else the command takes, to suggest for a misspelt one.
        how: passed to `tyro.cli`.

    Raises:
        InputError: an option is unknown, missing or of another type, or ``kind`` refuses a value.
        SystemExit: the help was asked for.
    """
    short = tyro.conf.OmitArgPrefixes in how.get("config", ())
    names = (name.rpartition(".")[2] if short else name for name in types_of(kind))
    flags = [*more_flags, *(f"--{name.replace('_', '-')}" for name in names)]
    with refusals.on_parse_error(lambda event: refusals.refuse(event, flags)):
        parsed = tyro.cli(_grouped(kind, default), **how)
    titles, values = GROUPS.get(kind.__name__, {}), dict[str, Any]()
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        values |= vars(value) if field.name in titles else {field.name: value}
    return kind(**values)


def types_of(kind: Any, prefix: str = "") -> dict[str, Any]:
    """List the options of a dataclass, the name of a part and a dot before its own, with types."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        part = types_of(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {}
        types |= part or {f"{prefix}{name}": hint}
    return types


def _grouped(kind: Any, default: Any) -> Any:
    """Make a dataclass that holds the options of ``kind`` in dataclasses, one for each group."""
    hints, helps = get_type_hints(kind, include_extras=True), dict(_docs(kind))
    options: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name in helps and not dataclasses.is_dataclass(hint):
            hint = Annotated[hint, tyro.conf.arg(help=helps[field.name])]
        if default is not None:
            value = dataclasses.field(default=getattr(default, field.name))
        else:
            value = dataclasses.field(default=field.default, default_factory=field.default_factory)
        options[field.name] = (field.name, hint, value)
    members: list[Any] = []
    for title, names in GROUPS.get(kind.__name__, {}).items():
        group = [options.pop(name) for name in names if name in options]
        if group:
            nested: Any = dataclasses.make_dataclass(
                title.title(), group, frozen=True, kw_only=True
            )
            members.append((title, tyro.conf.OmitArgPrefixes[nested]))  # type: ignore[misc]
    fields = [*options.values(), *members]
    return dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)


def _docs(kind: type) -> Iterator[tuple[str, str]]:
    """Read the string below each field of a dataclass and of those it inherits from."""
    for each in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        for field, doc in itertools.pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                yield ast.unparse(field.target), inspect.cleandoc(ast.literal_eval(doc.value))
