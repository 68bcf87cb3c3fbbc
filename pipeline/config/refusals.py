"""Turn what tyro refuses on a command line into an `InputError`: one line, with the nearest name.

By tyro's private hook, which no other part of it replaces; what the hook brings anew in a later
version is shown in tyro's own form.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from tyro import _errors

from sharding.errors import InputError, unknown

on_parse_error = _errors.on_parse_error
_LISTED = "--help lists all options"
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a word", "PATH": "a path"}


class FirstOptions(argparse.ArgumentParser):
    """Takes from a command line what decides how the rest is read; leaves the rest."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise `InputError`, such as of an option without its value."""
        raise InputError(message.removeprefix("argument "), fix=_LISTED)


def refuse(event: _errors.ParseErrorEvent, flags: Sequence[str]) -> None:
    """Raise the error of a command line that tyro refuses.

    Args:
        event: what is wrong, as tyro's hook gets it.
        flags: all that the command has, to suggest the nearest.

    Raises:
        InputError: of everything but kinds of events that are not known here.
    """
    tokens = getattr(event, "unrecognized_tokens", None) or getattr(event, "tokens", None)
    if tokens:  # before a missing option, which a misspelt one explains
        raise _unrecognised(tokens, flags)
    if isinstance(event, _errors.MissingArgs):
        missing = [arg.arg for arg in event.missing_arguments]
        needed = " ".join(f"{_flag(arg)} {arg.lowered.metavar}" for arg in missing)
        problem = f"{', '.join(map(_flag, missing))} missing"
        raise InputError(problem, fix=f"pass {needed}; --help says what it is")
    if isinstance(event, _errors.InvalidChoice):
        raise unknown(_flag(event.argument).lstrip("-"), event.value, event.choices)
    if isinstance(event, _errors.BadValue) and event.reason == "too_few_values":
        flag = _flag(event.argument)
        raise InputError(f"{flag} has no value", fix=f"pass {_kind(event.argument)} after it")
    if isinstance(event, _errors.InstantiationFailure) and event.argument:
        value = (re.findall("'([^']*)'", event.message) or [event.message])[-1]
        flag, kind = _flag(event.argument), _kind(event.argument)
        raise InputError(f"{flag} {value!r} is not {kind}", fix=f"pass {kind}")


def _unrecognised(tokens: Sequence[str], flags: Sequence[str]) -> InputError:
    flag = next((token for token in tokens if token.startswith("-")), None)
    if flag is None:
        return InputError(f"{tokens[0]!r} belongs to no option", fix=f"remove it; {_LISTED}")
    return unknown("option", flag.partition("=")[0], flags, listed=_LISTED)


def _flag(argument: Any) -> str:
    return argument.lowered.name_or_flags[-1]


def _kind(argument: Any) -> str:
    return _KINDS.get(argument.lowered.metavar.split("|")[-1], argument.lowered.metavar)
