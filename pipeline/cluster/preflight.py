"""Check that there is a cluster, and that its every node can run a job.

A node's Python, packages, code, and storage are compared with the driver's.
"""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from pipeline import storage
from sharding.errors import InputError
from sharding.log import first_line, info

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
_ANSWER_SECONDS = 20.0  # within which a cluster has to answer
_HERE = "set it to local to start Ray on this machine"


class Place(NamedTuple):
    """Where a job finds Ray.

    Attributes:
        address: of the cluster that it joins; "" or "local" where it starts Ray, "auto" where Ray
            has found no cluster of this machine.
        file: in which Ray found the address; "" where the user has named it.
    """

    address: str
    file: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Whether there is a cluster to join, or should be."""
        return self.address not in ("", "local") or bool(self.file)

    @property
    def fix(self) -> str:
        """Say what to do where no cluster can be joined."""
        if self.file:
            return (
                "set RAY_ADDRESS to local to start Ray on this machine, or to the address of a "
                "cluster; `ray start` writes the file, `ray stop` removes it"
            )
        return f"correct RAY_ADDRESS, or {_HERE}"

    def __str__(self) -> str:
        if not self.is_elsewhere or self.address == "auto":
            return "starting Ray"
        told = f", which {self.file} names; RAY_ADDRESS=local starts Ray here" if self.file else ""
        return f"joining Ray at {self.address}{told}"


class Difference(NamedTuple):
    """How a node differs from the driver, in one line, and whether the job must not run on it."""

    text: str
    fatal: bool


def require_answer(place: Place) -> None:
    """Raise InputError where Ray would silently retry for a quarter of an hour."""
    host, _, port = place.address.rpartition(":")
    if not host or not port.isdecimal() or "://" in host:  # "local", "auto", Ray Client's
        if place.file:
            raise _no_answer(place, "not an address")
        return
    begun = time.monotonic()
    while True:  # it may be about to start
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except (OSError, UnicodeError) as error:  # the latter of a host that cannot be one
            if time.monotonic() - begun > _ANSWER_SECONDS:
                raise _no_answer(place, str(error)) from None
        time.sleep(1)


def _no_answer(place: Place, reason: str) -> InputError:
    problem = f"no Ray cluster answers at {place.address or repr('')}: {reason}"
    return InputError(problem, file=place.file or None, fix=place.fix)


def not_joined(place: Place, reason: str) -> InputError:
    """Make the error of a cluster that `ray.init` could not join, and why."""
    if place.address == "auto":
        problem = "RAY_ADDRESS is auto, and this machine belongs to no Ray cluster"
        return InputError(problem, fix=f"run the command on a node of one, or {_HERE}")
    problem = f"the Ray cluster at {place.address} cannot be joined: {reason}"
    return InputError(problem, file=place.file or None, fix=place.fix)


def facts(code: str) -> dict[str, str]:
    """Read the versions of Python and `PACKAGES`, beside the hash of the code imported."""
    return {_PYTHON: platform.python_version(), _CODE: code} | {
        package: version(package) for package in PACKAGES
    }


def version(package: str) -> str:
    """Read the version of an installed package, or `ABSENT`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def check(driver: Mapping[str, str], answers: Mapping[str, Mapping[str, str] | None]) -> None:
    """Log a line for each node, by address, that differs or (None) does not answer.

    Raises:
        InputError: a difference would break the job; names the nodes.
    """
    differences = {
        node: difference
        for node, theirs in answers.items()
        if theirs is not None and (difference := compare(driver, theirs))
    }
    silent = [f"node {node} does not answer" for node, theirs in answers.items() if theirs is None]
    for line in (*silent, *(f"node {node}: {each.text}" for node, each in differences.items())):
        info(f"preflight: {line}", "WARNING")
    broken = [node for node, difference in differences.items() if difference.fatal]
    if broken:
        raise InputError(
            f"the job cannot run on {', '.join(broken)}: another Python, packages or code",
            fix="install requirements.lock there (`ray up` does), or take the node away",
        )


def read_word(location: str, word: str, seconds: float = 10) -> str:
    """Read the file that the driver has just written; return "" or, after a while, what is wrong.

    A network file system may show a new file to other machines some seconds later.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            if storage.read_bytes(location) == word.encode():
                return ""
            wrong = "holds another file of that name"
        except (OSError, InputError) as error:
            wrong = f"cannot read what the driver writes ({first_line(error)})"
        if time.monotonic() > end:
            return wrong
        time.sleep(1)


def check_shared(directory: str, answers: Mapping[str, str | None]) -> None:
    """Check what each node, by address, has answered to `read_word`; None is no answer.

    Raises:
        InputError: a node does not see the directory; names the nodes.
    """
    blind = {node: wrong for node, wrong in answers.items() if wrong}
    for node, wrong in blind.items():
        info(f"preflight: node {node}: {wrong}", "WARNING")
    if blind:
        raise InputError(
            f"not shared with {', '.join(blind)}",
            file=directory,
            fix="mount the same file system there under the same path, or pass a bucket",
        )


def compare(driver: Mapping[str, str], node: Mapping[str, str]) -> Difference | None:
    """Compare a node's `facts` with the driver's; None if they are equal.

    A package that is absent, another major version, another minor version of Python and any
    other code are fatal. What the driver itself lacks is not compared.
    """
    others = {
        name: (node.get(name, ABSENT), ours)
        for name, ours in driver.items()
        if ours not in (ABSENT, node.get(name, ABSENT))
    }
    if not others:
        return None
    text = "; ".join(f"{name} {theirs}, driver {ours}" for name, (theirs, ours) in others.items())
    return Difference(text, any(_breaks(name, *versions) for name, versions in others.items()))


def _breaks(name: str, theirs: str, ours: str) -> bool:
    if name == _CODE or theirs == ABSENT:
        return True
    parts = 2 if name == _PYTHON else 1
    return ours.split(".")[:parts] != theirs.split(".")[:parts]
