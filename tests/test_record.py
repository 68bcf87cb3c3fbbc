"""An evaluation from its command to its run in MLflow, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster, evaluation, record, trackingstore
from pipeline.config import EvaluateConfig
from pipeline.evaluation import Evaluation
from tests.models import write_checkpoint


def in_this_process(work: Callable[[Any], Any], items: Sequence[Any], **_: object) -> Iterator[Any]:
    """What `cluster.run_tasks` does, the last task first: the order of answers is nobody's."""
    return map(work, reversed(items))


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A checkpoint and a dataset at a URL, with runs in a database of their own."""

    config: EvaluateConfig

    @property
    def checkpoint(self) -> str:
        return self.config.checkpoint

    def evaluate(self, config: EvaluateConfig | None = None) -> Evaluation:
        return evaluation.run(config or self.config, self.checkpoint)


@pytest.fixture(scope="module")
def desk(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where datasets from a URL are copied to
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(cluster, "shares", lambda workers: (workers or 1, 0.0, 1))
        patch.setattr(cluster, "run_tasks", in_this_process)
        checkpoint = str(write_checkpoint(folder / "checkpoint", squares))
        yield Desk(config=EvaluateConfig(checkpoint=checkpoint, dataset=squares.as_uri()))


def run_of(run_id: str) -> Any:
    return trackingstore.client().get_run(run_id)


def test_a_dataset_at_a_url_is_evaluated_and_named_by_it(desk: Desk, squares: Path) -> None:
    found = desk.evaluate()
    assert found.maps is not None
    assert found.maps.attributions.counts_H.sum() > 0
    run = run_of(record.record(found, desk.config, desk.checkpoint, None))
    (read,) = run.inputs.dataset_inputs
    assert read.dataset.name == f"{squares.name}/first/test"
    assert f"{desk.config.dataset}/labels/first/test.parquet" in read.dataset.source
