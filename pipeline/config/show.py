"""A configuration as people and machines read it: every value with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.presets import Preset
from pipeline.config.train import TrainConfig, parse_options

_OPTIONS = "method_options"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One value.

    Attributes:
        name: dotted, as in `TrainConfig.flat`; a method's options as ``method_options.<name>``.
        value: as it will be used.
        provenance: paper, code, inferred, unknown or ours (`pipeline.config.paper_training`) of a
            preset's value; flag where the command line says otherwise; default else.
        source: who says so, "" for flags and defaults.
    """

    name: str
    value: Any
    provenance: str
    source: str = ""


def rows(config: TrainConfig, start: Preset | None, options: Mapping[str, Any]) -> list[Row]:
    """Every value of a configuration, options that a method has by default included.

    Args:
        config: what will run.
        start: the preset it began from, if any.
        options: every option of the method as it will be used
            (`pipeline.methods.registry.complete_options`).
    """
    defaults = TrainConfig(dataset="").flat()
    origins = {} if start is None else start.values
    values = {name: value for name, value in config.flat().items() if name != _OPTIONS}
    given = parse_options(config.method_options)
    for option, value in options.items():
        defaults[f"{_OPTIONS}.{option}"] = None if option in given else value
        values[f"{_OPTIONS}.{option}"] = value
    values |= {name: origin.value for name, origin in origins.items() if name not in values}
    found = []
    for name, value in sorted(values.items(), key=lambda item: _section(item[0])):
        origin = origins.get(name)
        if origin is not None and origin.value == value:
            row = Row(name=name, value=value, provenance=origin.provenance, source=origin.source)
        else:
            plain = origin is None and defaults.get(name) == value
            row = Row(name=name, value=value, provenance="default" if plain else "flag")
        found.append(row)
    return found


def as_table(shown: Sequence[Row]) -> str:
    """Aligned columns, sections apart."""
    cells = [(row.name, str(row.value), row.provenance, row.source) for row in shown]
    header = ("value", "is", "provenance", "source")
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(3)]
    lines, section = [], None
    for row in [header, *cells]:
        if section not in (None, _section(row[0])):
            lines.append("")
        section = _section(row[0])
        padded = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
        lines.append("  ".join([*padded, row[3]]).rstrip())
    return "\n".join(lines)


def _section(name: str) -> int:
    """Parts in the order of the configuration, the options of the method last."""
    return ("", "model", "data", "optimizer", _OPTIONS).index(name.rpartition(".")[0])


def as_json(config: TrainConfig, shown: Sequence[Row]) -> str:
    """``config`` as `TrainConfig.from_dict` takes it, and ``values`` with their provenance."""
    values = [asdict(row) for row in shown]
    return json.dumps({"config": config.to_dict(), "values": values}, indent=1, default=str)
