"""Several Ray instances on one machine: every worker process knows which of them is its own."""

from __future__ import annotations

import os


def name_own_instance() -> None:
    """Set `RAY_ADDRESS` in this worker process, which inherited the driver's ("local", or none).

    Ray Train's `PlacementGroupCleaner` otherwise looks for its instance among the machine's
    processes: beside a second one it prints a traceback into the run and stops watching.
    """
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
