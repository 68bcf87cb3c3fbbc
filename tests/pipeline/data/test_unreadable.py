"""Images gone bad: survived wherever they are in an epoch, noted, and searched for once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config.train import TrainConfig
from pipeline.data import unreadable
from pipeline.data.unreadable import LeftOut
from pipeline.training.validation import Validator
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.pipeline.data.test_loader import loader, spoil
from tests.pipeline.training.test_worker import Recorder, begin, worker_for


@pytest.fixture
def broken(squares: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(squares, tmp_path / "broken"))


def names(batches: list) -> list[list[str]]:
    return [[f"{name}.jpg" for name in format_image_ids(b.image_ids_B)] for b in batches]


def test_the_first_batch_is_survived(squares: Path, broken: Path) -> None:
    bad = spoil(broken, 1, 0, 0) | spoil(broken, 1, 0, 2)
    ours = names(list(loader(broken, train=False).epoch(0)))
    theirs = names(list(loader(squares, train=False).epoch(0)))
    assert ours[1:] == theirs[1:]
    assert ours[0] == [name for name in theirs[0] if name not in bad]
    assert len(ours[0]) == 3


def test_the_first_batch_after_a_resume_is_survived(squares: Path, broken: Path) -> None:
    theirs = names(list(loader(squares).epoch(1)))
    bad = spoil(broken, 1)
    done = next(number for number, batch in enumerate(theirs) if bad & set(batch))
    assert done
    epoch = loader(squares).epoch(1)
    for _ in range(done):
        next(epoch)
    ours = names(list(loader(broken).epoch(1, done=done, position=epoch.position())))
    assert ours == [[name for name in batch if name not in bad] for batch in theirs[done:]]


def test_batches_whose_headers_dali_reads_in_threads_are_survived(broken: Path) -> None:
    for number in range(3):
        spoil(broken, 10, number, 1)
    code = (
        "from pathlib import Path; import sys; from tests.pipeline.data.test_loader import loader\n"
        "for epoch in range(1, 6):\n"
        "    one = loader(Path(sys.argv[1]), batch_size=32, threads=2)\n"
        "    print(sum(map(len, one.epoch(epoch))))\n"
    )
    command = [sys.executable, "-c", code, str(broken)]  # not this process: it might die
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert ended.stdout.split() == ["66"] * 5, ended.stderr[-2000:]


def of_run(dataset: Path, tmp_path: Path, process: str, tracker: Recorder) -> LeftOut:
    config = TrainConfig(dataset=str(dataset), storage=str(tmp_path / "runs"), name="one")
    return unreadable.of_run(config, Dataset.open(dataset), process, tracker.artifact)


def test_what_one_process_found_the_others_know(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, tracker = spoil(broken, 2), Recorder()
    left_out = of_run(broken, tmp_path, "rank-1", tracker)
    ours = names(list(loader(broken, left_out=left_out).epoch(1)))
    assert sum(map(len, ours)) == 94
    content, path = tracker.calls["artifact"][-1]
    assert path == "unreadable/rank-1.json"
    assert (tmp_path / "runs/one" / path).read_bytes() == content
    assert {row["member"] for row in json.loads(content)} == bad
    assert {row["tar"] for row in json.loads(content)} == {"images/train-000001.tar"}

    def refuse(*arguments: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(unreadable, "find", refuse)
    again = of_run(broken, tmp_path, "rank-0", Recorder())
    assert names(list(loader(broken, left_out=again).epoch(1))) == ours


def test_a_mended_tar_is_read_again(squares: Path, broken: Path, tmp_path: Path) -> None:
    spoil(broken, 2)
    list(loader(broken, left_out=of_run(broken, tmp_path, "rank-0", Recorder())).epoch(1))
    assert len(of_run(broken, tmp_path, "rank-0", Recorder())) == 2
    tar = "images/train-000001.tar"
    shutil.copy(squares / tar, broken / tar)
    mended = of_run(broken, tmp_path, "rank-0", Recorder())
    assert sum(map(len, loader(broken, left_out=mended).epoch(1))) == 96


def test_a_run_that_cannot_note_it_goes_on(broken: Path, tmp_path: Path) -> None:
    spoil(broken, 1)
    (tmp_path / "runs").mkdir()
    left_out = of_run(broken, tmp_path, "rank-0", Recorder())
    (tmp_path / "runs/one").touch()  # nothing can be written below a file
    assert sum(map(len, loader(broken, left_out=left_out).epoch(1))) == 95


def test_a_worker_searches_once_and_validates_without(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = broken / "images/validation-000000.tar"
    _, offset, size, name = tar.with_suffix(".idx").read_text().splitlines()[4].split(" ")[:4]
    with tar.open("r+b") as file:
        file.seek(int(offset))
        file.write(bytes(int(size)))
    searches: list[int] = []
    find = unreadable.find
    monkeypatch.setattr(unreadable, "find", lambda *a: searches.append(1) or find(*a))
    worker = begin(worker_for(broken, "an", storage=str(tmp_path / "runs")))
    for epoch in (1, 2):
        worker.train(epoch)
        worker.validate()
    assert len(searches) == 1
    noted = [path for _, path in worker.tracker.calls["artifact"] if "unreadable" in path]
    assert noted == ["unreadable/rank-0.json"]

    config = worker.config
    beside = Validator(
        config=config,
        dataset=worker.dataset,
        device=torch.device("cpu"),
        threads=1,
        tracker=Recorder(),
        left_out=unreadable.of_run(config, worker.dataset, "validation", Recorder().artifact),
    )
    beside(worker.model.eval(), epoch=2, images_seen=192)
    assert len(searches) == 1
    assert name in (tmp_path / "runs" / config.run_name / "unreadable/rank-0.json").read_text()
