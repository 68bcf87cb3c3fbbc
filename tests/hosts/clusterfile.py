"""Adapt the shipped on-premise cluster file to pretend machines."""

from __future__ import annotations

import copy
from typing import Any

# Three Ray nodes, and their workers, share one machine's memory.
_SMALL = "ray start --object-store-memory=200000000"


def for_namespaces(shipped: dict[str, Any]) -> dict[str, Any]:
    """Derive the test's cluster file: addresses, mounts and authentication stay as shipped.

    The machines have an environment of the locked versions already, and no network to install
    from; what is installed for real is this project, from the mounts.
    """
    config = copy.deepcopy(shipped)
    config["setup_commands"] = [
        command
        for command in config["setup_commands"]
        if not command.startswith("pip install --requirement")
    ]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[commands] = [command.replace("ray start", _SMALL) for command in config[commands]]
    return config
