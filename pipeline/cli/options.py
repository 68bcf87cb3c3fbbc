"""Parse a job's options: from the command line, over those of a ``--config`` file."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from pipeline.config import groups, refusals
from pipeline.config.groups import Option
from sharding.errors import PROGRAM, InputError, unknown
from sharding.log import redact
from sharding.progress import say

_CONFIG_HELP = """\n
--config FILE.json|FILE.yaml
  options by name; flags override them"""
Options = TypeVar("Options")
_PLACES = {
    *("dataset", "images", "output", "run", "checkpoint"),
    *("against", "boxes", "pool", "scores", "truth", "storage", "cache"),
}
"""Options of text that take a path or a URL."""


def parse(
    kind: Callable[..., Options],
    arguments: Sequence[str],
    program: str | None,
    job: Callable[..., object],
    old_names: Mapping[str, str] | None = None,
) -> Options:
    """Parse a job's options.

    Args:
        kind: dataclass of the options.
        arguments: of the command line, without the program's name.
        program: what the help calls it; None for the script's name.
        job: whose docstring the help begins with.
        old_names: flags that are accepted though the help does not name them, and their new names.

    Raises:
        InputError: the configuration file is not there or has an option that the job lacks, or
            ``kind`` refuses a value, or a place is none; see `refuse_misplaced`.
        SystemExit: the help was asked for, or an option is unknown or of another type.
    """
    obey_no_color()
    known = groups.options_of(kind)
    words = expand(arguments, known, old_names)
    options = groups.parse(
        kind,
        prog=program,
        description=description(job) + _CONFIG_HELP,
        args=words,
        more_flags=("--config",),
    )
    refuse_misplaced(words, known)
    begin(job)
    return options


def begin(job: Callable[..., object]) -> None:
    """Say that a job runs, before it imports what takes seconds."""
    import pipeline

    say(f"{job.__name__.removeprefix('run_').replace('_', '-')}: {PROGRAM} {pipeline.__version__}")


def require(*locations: str | None) -> None:
    """Refuse a local path that is not there, before a job imports what takes seconds.

    Args:
        locations: paths; URLs, MLflow's names and None are for others to judge.

    Raises:
        InputError: there is nothing at one of them.
    """
    for location in locations:
        if location is not None and ":/" not in location:
            path = Path(location).expanduser().absolute()
            if not path.exists():
                raise InputError("no such directory", file=path, fix="check the path")


def refuse_misplaced(words: Sequence[str], known: Mapping[str, Option]) -> None:
    """Refuse places that a job would take for others: empty, or URLs where it needs a path.

    Judged by the words of a command line, because a `Path` lacks them: it makes the working
    directory of "", and a folder "s3:" of a URL.

    Args:
        words: of the command line, of which the last counts where an option is given twice.
        known: the options of the job.

    Raises:
        InputError: such a place, or a ``file://`` with a host, which would be left out.
    """
    given: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = _named(flag, known)
            given[name] = [value] if equals else []
        else:
            given.setdefault(name, []).append(word)
    for name in given.keys() & known.keys():
        flag, kind = f"--{known[name].flags[0]}", known[name].kind
        is_path = Path in (kind, *get_args(kind))
        if is_path or name in _PLACES:
            for value in given[name]:
                _refuse_place(flag, value, is_path)


def _refuse_place(flag: str, value: str, is_path: bool) -> None:
    if not value:
        raise InputError(f"{flag} is empty", fix="give it a value; . is the working directory")
    if is_path and "://" in value:
        raise InputError(f"{flag} {value} is a URL", fix="give a path: this option takes no URL")
    if value.startswith("file://") and not value.startswith("file:///"):
        fix = "write file:///PATH, with three slashes, or the path alone"
        raise InputError(f"{flag} {value} names a host, and no path of this machine", fix=fix)


def obey_no_color() -> None:
    """Turn tyro's colours off where the environment has ``NO_COLOR`` (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        tyro._experimental_options["ansi_codes"] = False


def write(text: object) -> None:
    """Print a part of a job's result, which others may read, without credentials in its URLs."""
    print(redact(str(text)), flush=True)


def description(job: Callable[..., object]) -> str:
    """Return the text that a job's help begins with."""
    return inspect.getdoc(job) or ""


def expand(
    arguments: Sequence[str],
    known: Mapping[str, Option],
    old_names: Mapping[str, str] | None = None,
) -> list[str]:
    """Put the options of a ``--config`` file before the others, and give old flags their new name.

    Args:
        arguments: of the command line.
        known: the options that the file may have; dotted ones may stand in a section.
        old_names: flags by their former names.
    """
    file, rest = _split(arguments)
    given = [] if file is None else _flags(file, known)
    return [*given, *(_renamed(argument, old_names or {}) for argument in rest)]


def of_file(
    arguments: Sequence[str], known: Mapping[str, Option], old_names: Mapping[str, str]
) -> frozenset[str]:
    """Name the options whose values are those of the ``--config`` file; see `expand`."""
    file, rest = _split(arguments)
    if file is None:
        return frozenset()
    words = (_renamed(word, old_names).partition("=")[0] for word in rest if word.startswith("--"))
    overridden = {_named(word[2:].removeprefix("no-"), known) for word in words}
    return frozenset(_named(name, known) for name in _values(file)) - overridden


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take the file of ``--config`` out of a command line."""
    finder = refusals.FirstOptions()
    finder.add_argument("--config", type=Path)
    chosen, rest = finder.parse_known_args(arguments)
    return chosen.config, rest


def _renamed(argument: str, old_names: Mapping[str, str]) -> str:
    flag, equals, value = argument.partition("=")
    return old_names.get(flag, flag) + equals + value


def _flags(path: Path, known: Mapping[str, Option]) -> list[str]:
    """Turn the values of a configuration file into flags."""
    flags = []
    for name, value in _values(path).items():
        option = known.get(_named(name, known))
        if option is None:
            listed = "remove it; --help lists all options"
            words = [*known, *_short_names(known)]
            raise unknown("option", name, words, listed=listed, file=path)
        flags += _flag(option.flags[0], value, option.kind)
    return flags


def _named(name: str, known: Mapping[str, Option]) -> str:
    """Find the option that a file or a flag names: whole, without its part, or as the flag is."""
    name = name.replace("-", "_")
    return name if name in known else _short_names(known).get(name, "")


def _short_names(known: Mapping[str, Option]) -> dict[str, str]:
    names = {name.rpartition(".")[2]: name for name in known}
    return names | {flag.replace("-", "_"): name for name in known for flag in known[name].flags}


def _flag(flag: str, value: Any, kind: Any) -> list[str]:
    if kind is bool and isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, bool):  # YAML's reading of on and off
        value = "on" if value else "off"
    return [f"--{flag}", *map(str, value)] if isinstance(value, list) else [f"--{flag}={value}"]


def _values(path: Path) -> dict[str, Any]:
    """Read a configuration file as a flat mapping; of ``--print-config json`` its ``config``."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else _yaml(text)
        raw = raw.get("config", raw) if isinstance(raw.get("config"), dict) else raw
    except OSError as error:
        raise InputError(f"no configuration ({error.strerror})", file=path) from None
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"not a configuration ({error})", file=path, fix="write name: value, one a line"
        ) from None
    return dict(_leaves(raw))


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, _plain_loader()) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


@functools.cache
def _plain_loader() -> type[Any]:
    """Make a loader that takes numbers and dates as they are written.

    YAML 1.1 reads 2017_11 as 201711 and 1:4 as 64; an option parses its own text.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    kept = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    Loader.yaml_implicit_resolvers = {
        letter: [(tag, regexp) for tag, regexp in resolvers if tag in kept]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("-", "_"), value
