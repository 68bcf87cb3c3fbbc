"""The shipped on-premise cluster file, changed no more than pretend machines need."""

from __future__ import annotations

import copy
from typing import Any

# Three Ray nodes, and their workers, share one machine's memory.
_SMALL = "ray start --object-store-memory=200000000"
# A host that is lost is noticed after seconds; the defaults wait for busy real networks.
_QUICK = (
    "export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=2000 "
    "RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=3 "
    "AUTOSCALER_HEARTBEAT_TIMEOUT_S=20; "
)


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
    config["head_start_ray_commands"] = [
        _QUICK + command.replace("ray start", _SMALL) if "ray start" in command else command
        for command in config["head_start_ray_commands"]
    ]
    config["worker_start_ray_commands"] = [
        command.replace("ray start", _SMALL) for command in config["worker_start_ray_commands"]
    ]
    return config
