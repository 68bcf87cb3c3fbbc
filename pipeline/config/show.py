"""Print a configuration, every value with where it comes from, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pipeline.config.presets import TrainCommand
from pipeline.config.train import TrainConfig, parse_options

_OPTIONS = "method_options"
_MISSING = "(not given yet)"  # the dataset of a preset alone
_SECTIONS = ("", "model", "data", "optimizer", _OPTIONS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One value of a configuration.

    Attributes:
        name: dotted, as in `TrainConfig.flat`; a method's options as ``method_options.<name>``.
        value: as it will be used.
        provenance: paper, code, inferred, unknown or ours (`pipeline.config.paper_training`) of a
            preset's value; flag or config file where these say otherwise; default else.
        source: of a preset's value, "" for flags and defaults.
    """

    name: str
    value: Any
    provenance: str
    source: str = ""

    @property
    def section(self) -> str:
        """The part of the configuration that it belongs to; "" for the top."""
        return self.name.rpartition(".")[0]


def print_form(
    command: TrainCommand, options: Mapping[str, Any], of_file: Collection[str] = ()
) -> str:
    """Write a command's configuration in the form that it asks for.

    Args:
        command: with ``print_config`` set.
        options: every option of the method as it will be used
            (`pipeline.methods.registry.complete_options`).
        of_file: names of the options that a configuration file has set.
    """
    shown = rows(command, options, of_file)
    if command.print_config == "json":
        return as_json(command.config, shown)
    return as_table(shown)


def rows(
    command: TrainCommand, options: Mapping[str, Any], of_file: Collection[str] = ()
) -> list[Row]:
    """List every value of a command's configuration, the method's default options included.

    Args:
        command: what will run, and the preset it began from.
        options, of_file: as of `print_form`.
    """
    config = command.config
    defaults = TrainConfig(dataset="").flat()
    origins = command.preset.values if command.preset else {}
    values = {name: value for name, value in config.flat().items() if name != _OPTIONS}
    if not config.name:
        defaults["name"] = values["name"] = config.run_name
    given = parse_options(config.method_options)
    for option, value in options.items():
        defaults[f"{_OPTIONS}.{option}"] = None if option in given else value
        values[f"{_OPTIONS}.{option}"] = value
    values |= {name: origin.value for name, origin in origins.items() if name not in values}
    listed = []
    for name, value in values.items():
        origin = origins.get(name)
        if origin is not None and origin.value == value:
            row = Row(name=name, value=value, provenance=origin.provenance, source=origin.source)
        else:
            is_of_file = (_OPTIONS if name.startswith(_OPTIONS) else name) in of_file
            said = "config file" if is_of_file else "flag"
            unchanged = origin is None and defaults.get(name) == value
            row = Row(name=name, value=value, provenance="default" if unchanged else said)
        listed.append(row)
    return sorted(listed, key=lambda row: _SECTIONS.index(row.section))


def as_table(shown: Sequence[Row]) -> str:
    """Align names, values and sources in columns, a section for each part."""
    from pipeline.tables import Table  # NumPy and Arrow, which a help does not wait for

    headers = ("name", "value", "provenance", "source")
    sections = [
        [(row.name, str(row.value) or _MISSING, row.provenance, row.source) for row in section]
        for _, section in groupby(shown, key=lambda row: row.section)
    ]
    return Table(headers=headers, sections=sections, text_columns=len(headers)).terminal()


def as_json(config: TrainConfig, shown: Sequence[Row]) -> str:
    """Write ``config`` as `TrainConfig.from_dict` takes it, and ``values`` with their sources."""
    values = [asdict(row) for row in shown]
    return json.dumps({"config": config.to_dict(), "values": values}, indent=1, default=str)
