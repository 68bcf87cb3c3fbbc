"""Whether every node of a cluster can run the driver's job: its Python, its packages, its code."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from sharding.errors import InputError
from sharding.log import info

# What computes or what two processes must speak alike; the rest of the lock follows from these.
PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "nvidia-dali-cuda130",
    "webdataset",
    "pyarrow",
    "mlflow",
    "numpy",
)
ABSENT = "absent"
_CODE, _PYTHON = "code", "Python"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one node differs from the driver.

    Attributes:
        node: its address.
        line: one line that names the node and each difference.
        fatal: whether the job must not run on it.
    """

    node: str
    line: str
    fatal: bool


def facts(code: str) -> dict[str, str]:
    """Versions of this process's Python and of `PACKAGES`, and the hash of the code it imports."""
    return {_PYTHON: platform.python_version(), _CODE: code} | {
        package: version(package) for package in PACKAGES
    }


def version(package: str) -> str:
    """Version of an installed package, or `ABSENT`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def compare(driver: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    """Compare `facts` of the nodes, by address, with the driver's; the nodes that differ.

    A package that is absent, another major version, another minor version of Python and any
    other code are fatal. What the driver itself lacks is not compared.
    """
    found = []
    for node, theirs in nodes.items():
        other = [
            name
            for name, version in driver.items()
            if version != ABSENT and theirs.get(name, ABSENT) != version
        ]
        if other:
            told = "; ".join(
                f"{name} {theirs.get(name, ABSENT)}, driver {driver[name]}" for name in other
            )
            fatal = any(_breaks(name, driver[name], theirs.get(name, ABSENT)) for name in other)
            found.append(Difference(node=node, line=f"node {node}: {told}", fatal=fatal))
    return found


def check(driver: Mapping[str, str], answers: Mapping[str, Mapping[str, str] | None]) -> None:
    """Print a line for each node that differs or (None) does not answer.

    Raises:
        InputError: a difference that would break the job; names the nodes.
    """
    found = compare(driver, {node: told for node, told in answers.items() if told is not None})
    silent = [f"node {node} does not answer" for node, told in answers.items() if told is None]
    for line in [*silent, *(difference.line for difference in found)]:
        info(f"preflight: {line}", "WARNING")
    broken = [difference.node for difference in found if difference.fatal]
    if broken:
        raise InputError(
            f"the job cannot run on {', '.join(broken)}: another Python, packages or code",
            fix="install requirements.lock there (`ray up` does), or take the node away",
        )


def _breaks(name: str, ours: str, theirs: str) -> bool:
    if name == _CODE or theirs == ABSENT:
        return True
    parts = 2 if name == _PYTHON else 1
    return ours.split(".")[:parts] != theirs.split(".")[:parts]
