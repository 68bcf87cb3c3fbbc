"""Check options of the dataset jobs; light to import, as the options themselves are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from sharding.errors import InputError, ignored
from sharding.layout import VERSION_NAMES, is_version_name

_WORDS = {"name": "labels", "class_name": "class"}
"""Options whose word on the command line is not the name of their field."""


def refuse_below_one(name: str, value: int | None) -> None:
    """Refuse an option that is given and not positive.

    Raises:
        InputError: it is below 1.
    """
    if value is not None and value < 1:
        raise InputError(f"{_option(name)} is {value}", fix="give a positive number")


def refuse_version_name(name: str) -> None:
    """Refuse a value of --labels that cannot name a label version.

    Raises:
        InputError: a folder or a URL may not have this name, or a file of the dataset has it.
    """
    if not is_version_name(name):
        raise InputError(
            f"{name!r} cannot name a label version",
            fix=f"give --labels a name of {VERSION_NAMES}",
        )


def refuse_ignored(options: Any, names: Collection[str], why: str) -> None:
    """Refuse options that are given although the job would not use them.

    Args:
        options: dataclass of a job.
        names: its fields that mean nothing beside the others.
        why: "with" or "without" the option that decides it.

    Raises:
        InputError: one of these fields has another value than its default.
    """
    given = [
        _option(field.name)
        for field in dataclasses.fields(options)
        if field.name in names and getattr(options, field.name) != field.default
    ]
    if given:
        raise ignored(given, f" {why}")


def _option(name: str) -> str:
    return f"--{_WORDS.get(name, name).replace('_', '-')}"
