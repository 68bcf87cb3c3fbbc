"""Register models in MLflow: versions of a name, the alias of the best, where a model is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.tracking.client import global_client, mlflow_client
from pipeline.tracking.errors import is_absent, mlflow_errors
from sharding.log import info

BEST = "best"
_TAGS = ("dataset_digest", "labels", "licence", "method", "preset")
"""Of a model, that its versions have too."""
_JUDGED_BY = "judged_by"
_LONGEST_DESCRIPTION = 5000
"""Characters that MLflow's tables have room for."""


def register(
    model_id: str,
    name: str,
    metrics: Mapping[str, float],
    compared_by: str,
    run_id: str,
    description: str = "",
    judged_by: str = "",
) -> str:
    """Make a LoggedModel the next version of a registered model; return the version.

    The alias ``best`` moves to it unless the version that has it scored higher or was judged by
    something else, and with it the model's description, unless somebody wrote one.

    Args:
        model_id: from `pipeline.inference.mlflow_model.log_model`.
        name: of the registered model, made if missing.
        metrics: of the model.
        compared_by: the metric that decides; versions without it lose.
        run_id: the evaluation that judged the model.
        description: of the version, in Markdown.
        judged_by: what the metrics are of, in words; "" if all versions have the same.

    Raises:
        InputError: MLflow does not take it.
    """
    import mlflow
    from mlflow.entities import LoggedModelInput

    with mlflow_errors("MLflow does not take the model"):
        client = global_client()
        value = metrics.get(compared_by, math.nan)
        known = client.get_logged_model(model_id).tags
        tags = {tag: known[tag] for tag in _TAGS if tag in known}
        tags |= {} if math.isnan(value) else {compared_by: f"{value:.6f}"}
        tags |= {_JUDGED_BY: judged_by} if judged_by else {}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=tags).version
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
        shown = description[:_LONGEST_DESCRIPTION]
        client.update_model_version(name, version, shown)
        best = _best(client, name)
        score = float(best.tags.get(compared_by, math.nan)) if best else math.nan
        held = best.tags.get(_JUDGED_BY, judged_by) if best else judged_by
        kind = compared_by.partition("/")[2]
        if best and held != judged_by and any(tag.endswith(kind) for tag in best.tags):
            info(
                f"alias {BEST} of {name} stays with version {best.version}: {held} does not "
                f"compare with {judged_by}; set it by hand to go on from version {version}"
            )
        elif math.isnan(score) or value >= score:
            client.set_registered_model_alias(name, BEST, version)
            generated = ("", best.description or "") if best else ("",)
            if (client.get_registered_model(name).description or "") in generated:
                client.update_registered_model(name, shown)
        return str(version)


def download(uri: str) -> str:
    """Download the MLflow model ``models:/...``; return its local path.

    Raises:
        InputError: there is no such model.
    """
    from mlflow import artifacts

    fix = "name a registered model, or set MLFLOW_TRACKING_URI"
    with mlflow_errors(f"no model {uri}", fix):
        global_client()
        return str(artifacts.download_artifacts(artifact_uri=uri))


def run_directory(uri: str) -> tuple[str, str]:
    """Look up where the model of ``runs:/<run id>`` is: a training's or an evaluated checkpoint.

    Returns:
        The run's id, and the directory.

    Raises:
        InputError: there is no such run, or it is not one of ours.
    """
    run_id = uri.removeprefix("runs:/").partition("/")[0]
    fix = "name a training's or an evaluation's run id, or set MLFLOW_TRACKING_URI"
    with mlflow_errors(f"no run {run_id!r} of ours", fix):
        tags = mlflow_client().get_run(run_id).data.tags
        return run_id, str(tags["checkpoint"] if "checkpoint" in tags else tags["run_key"])


def _best(client: Any, name: str) -> Any | None:
    """Read the version with the alias `BEST`; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, BEST)
    except MlflowException as error:
        if not is_absent(error):  # else the alias would leave a better version
            raise
        return None
