"""Put a job's options into groups with titles, which tyro makes of nested dataclasses alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

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
    "ReshardOptions": {
        "label": ("release", "name", "conflict", "machine", "strict", "allow_empty"),
        "derivation": ("known", "single_positive", "hierarchy", "draw", "splits", "base"),
        "confidence": ("confidences", "confidences_name"),
        "job": ("workers", "scratch"),
    },
    "StudyConfig": {
        "label": ("labels", "draws", "draw_per_seed"),
        "comparison": ("seeds", "split", "baseline"),
        "search": ("tune", "trials"),
        "job": ("at_once", "experiment"),
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
        "report": ("rule", "intervals", "against", "attribution", "alpha_infer", "beam", "boxes"),
        "job": (
            *("batch_size", "workers", "cpus_per_worker", "wait_for_workers", "cache", "cache_gb"),
            *("experiment", "register"),
        ),
        "operation": ("thresholds", "precision"),
    },
    "PredictConfig": {
        "input": ("dataset", "split", "images", "urls"),
        "label": ("top_k", "threshold", "cams"),
        "job": ("images_per_part", "batch_size", "workers", "wait_for_workers"),
    },
    "AuditConfig": {
        "candidate": (
            *("epoch", "rank", "confidences", "top", "min_probability", "min_loss", "decisions"),
            "corrections",
        ),
        "judgement": ("truth", "log"),
    },
}
"""Options by title of their group, of the classes that have many; others stand before the groups.
A title is no option's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a command.

    Attributes:
        kind: type of its value.
        flags: what sets it on the command line, without dashes; the first is the one to show.
    """

    kind: Any
    flags: tuple[str, ...]


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
    flat = tyro.conf.OmitArgPrefixes in how.get("config", ())
    known = (flag for option in options_of(kind, flat).values() for flag in option.flags)
    flags = [*more_flags, *(f"--{flag}" for flag in known)]
    with refusals.on_parse_error(lambda event: refusals.refuse(event, flags)):
        return _built(kind, tyro.cli(_shown(kind, default), **how))


def options_of(kind: Any, flat: bool = False, prefix: str = "") -> dict[str, Option]:
    """List the options of a dataclass by name, the name of a part and a dot before its own.

    Args:
        kind: the dataclass.
        flat: whether flags leave out the part's name.
        prefix: of the names.
    """
    options: dict[str, Option] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            options |= options_of(hint, flat, f"{prefix}{name}.")
            continue
        plain: Any = hint
        arguments: list[Any] = []
        if get_origin(hint) is Annotated:
            plain, *arguments = get_args(hint)
        arguments = [found for found in arguments if hasattr(found, "aliases")]
        flags = [next((found.name for found in arguments if found.name), name)]
        flags += [alias.lstrip("-") for found in arguments for alias in found.aliases or ()]
        before = "" if flat else prefix
        written = tuple(f"{before}{flag}".replace("_", "-") for flag in flags)
        options[f"{prefix}{name}"] = Option(kind=plain, flags=written)
    return options


def _built(kind: Any, parsed: Any) -> Any:
    """Make the dataclass that `_shown` took apart."""
    hints, titles = get_type_hints(kind), GROUPS.get(kind.__name__, {})
    values: dict[str, Any] = {}
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        if field.name in titles:
            values |= vars(value)
        elif dataclasses.is_dataclass(part := hints[field.name]):
            values[field.name] = _built(part, value)
        else:
            values[field.name] = value
    return kind(**values)


def _shown(kind: Any, default: Any) -> Any:
    """Make a dataclass whose help is ours, with dataclasses inside, one for each group."""
    hints, helps = get_type_hints(kind, include_extras=True), dict(_docs(kind))
    options: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        value = field.default if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(hint):
            made: Any = hint
            part = _shown(hint, made() if default is None else value)
            options[field.name] = (field.name, part, dataclasses.field(default_factory=part))
        else:
            shown: Any = Annotated[hint, _argument(hint, value, helps.get(field.name))]  # type: ignore[valid-type]
            options[field.name] = (field.name, shown, dataclasses.field(default=value))
    members: list[Any] = []
    for title, names in GROUPS.get(kind.__name__, {}).items():
        group = [options.pop(name) for name in names if name in options]
        if group:
            nested: Any = _made(title.title(), group)
            members.append((title, tyro.conf.OmitArgPrefixes[nested]))  # type: ignore[misc]
    whole = _made(kind.__name__, [*options.values(), *members])
    whole.__doc__ = kind.__doc__
    return whole


def _made(name: str, fields: Sequence[Any]) -> Any:
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)


def _argument(hint: Any, default: Any, text: str | None) -> Any:
    """Describe an option: no type None, and no default where its text says what is then done."""
    unset = default is None or default in ("", ())
    return tyro.conf.arg(
        help=text, metavar=_metavar(hint), help_behavior_hint="" if unset else None
    )


def _metavar(hint: Any) -> str | None:
    """Write the type of an option's value; None for what tyro writes well."""
    if get_origin(hint) is Annotated:
        hint, *arguments = get_args(hint)
        for argument in arguments:
            if written := getattr(argument, "metavar", None):
                return str(written)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is tuple:
        return f"[{_metavar_of(parts[0])} ...]"
    if type(None) in parts:
        return "|".join(_metavar_of(part) for part in parts if part is not type(None))
    return None


def _metavar_of(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    return str(hint.__name__).upper()


def _docs(kind: type) -> Iterator[tuple[str, str]]:
    """Read the string below each field of a dataclass and of those it inherits from."""
    for each in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        for field, doc in itertools.pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                yield ast.unparse(field.target), " ".join(ast.literal_eval(doc.value).split())
