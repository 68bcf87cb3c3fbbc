"""Images gone bad: survived wherever they are in an epoch, noted, and searched for once."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import dali, unreadable
from pipeline.data.unreadable import LeftOut
from pipeline.training.epoch import run_epoch
from sharding.errors import InputError, MachineError
from sharding.image_ids import format_image_ids
from tests.pipeline.data.test_loader import loader, spoil
from tests.support.training import Recorder, begun, worker_for


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


def test_a_resume_after_a_bad_image_gives_the_same_pixels(broken: Path) -> None:
    spoil(broken, 2)
    epoch = loader(broken).epoch(1)
    first = len(list(itertools.takewhile(lambda _: not epoch.loader.left_out, epoch))) + 1
    position, expected = epoch.position(), list(epoch)
    assert expected
    ours = list(loader(broken).epoch(1, done=first, position=position))
    assert names(ours) == names(expected)
    for batch, theirs in zip(ours, expected, strict=True):
        assert torch.equal(batch.images_BHWC, theirs.images_BHWC)


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


def test_every_image_is_noted_once(broken: Path) -> None:
    bad, tracker = spoil(broken, 2), Recorder()
    one = loader(broken, left_out=LeftOut(tracker.artifact))
    for epoch in (1, 2):
        assert sum(map(len, one.epoch(epoch))) == 94
    notes = tracker.calls["artifact"]
    assert sorted(path for _, path in notes) == [f"unreadable/{name}.json" for name in sorted(bad)]
    assert {json.loads(content)["member"] for content, _ in notes} == bad
    assert {json.loads(content)["tar"] for content, _ in notes} == {
        str(broken / "images/train-000001.tar")
    }


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
    worker = begun(worker_for(broken, "an", storage=str(tmp_path / "runs")))
    for epoch in (1, 2):
        run_epoch(worker, epoch)
        worker.validate()
    assert len(searches) == 1
    noted = [path for _, path in worker.run_log.calls["artifact"] if "unreadable" in path]
    assert noted == [f"unreadable/{name}.json"]


ALL = 100
"""Images, more than a tar has."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "spoilt",
    [[(1, 0)], [(16, 0)], [(1, 0), (1, 20)], [(28, 0)]],
    ids=["first", "first-16", "first-and-21st", "all-but-one"],
)
def test_images_at_the_start_of_a_tar_are_survived(
    squares: Path, broken: Path, spoilt: list[tuple[int, int]], world_size: int, train: bool
) -> None:
    bad = set().union(*(spoil(broken, count, 1, first) for count, first in spoilt))
    assert len(bad) == sum(count for count, _ in spoilt)
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "train": train}
        ours = loader(broken, left_out=LeftOut(), **options)
        for epoch in (1, 2):
            theirs = names(list(loader(squares, **options).epoch(epoch)))
            kept = [[name for name in batch if name not in bad] for batch in theirs]
            assert names(list(ours.epoch(epoch))) == kept
        assert ours.left_out.members(str(broken / "images/train-000001.tar")) <= bad


@pytest.mark.timeout(120)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("numbers", [[1], [0, 1, 2]], ids=["tar", "split"])
def test_a_tar_without_any_good_image_is_refused(
    broken: Path, numbers: list[int], train: bool
) -> None:
    for number in numbers:
        spoil(broken, ALL, number, 0)
    one = loader(broken, train=train)
    with pytest.raises(InputError, match=r"images/train-00000.\.tar: no image.*verify.*--repair"):
        list(one.epoch(1))
    assert not one.left_out


@pytest.mark.timeout(120)
def test_an_image_read_in_place_of_others_goes_bad_too(broken: Path) -> None:
    one = loader(broken, train=False).part(1, 2)  # from image 13 of the tar on
    bad = spoil(broken, 2, 1, 20)
    assert sum(map(len, one.epoch(0))) == 44
    bad |= spoil(broken, 3, 1, 0)
    for _ in range(2):  # the pipeline held from the pass before may have read ahead, and in time
        assert sum(map(len, one.epoch(0))) == 44
    assert one.left_out.members(str(broken / "images/train-000001.tar")) == bad


@pytest.mark.timeout(120)
def test_a_failure_without_another_bad_image_is_not_tried_again(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = spoil(broken, 1)
    one = loader(broken)
    list(one.epoch(1))
    (sample,) = (dali.Sample(str(broken / "images/train-000001.tar"), name) for name in bad)
    epoch = one.epoch(2)
    monkeypatch.setattr(unreadable, "find", lambda *a: [sample])
    with pytest.raises(RuntimeError, match="of the reader"):
        epoch._leave_out_unreadable(RuntimeError("of the reader"))


FAILURE = RuntimeError("Critical error in pipeline:\nof an operator\nencountered:\n\nno room\nmore")


def test_no_image_is_left_out_while_the_decoder_decodes_none(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(broken, 1)
    one = loader(broken)
    monkeypatch.setattr(dali, "_failure", lambda data, device_id: FAILURE)
    with pytest.raises(MachineError, match=r"no image at all .*memory.*\(no room\).*repeat"):
        list(one.epoch(1))
    assert not one.left_out


def test_an_image_is_tried_again_once_another_was_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([FAILURE, None, None])
    monkeypatch.setattr(dali, "_failure", lambda data, device_id: next(answers))
    assert dali.decodes(np.zeros(100, np.uint8), None)
    assert next(answers, "asked for all") == "asked for all"


def test_a_good_image_is_not_blamed_for_a_lack_of_memory() -> None:
    code = """if True:
        import io, resource, sys
        import numpy as np
        from PIL import Image
        from pipeline.data import dali
        from sharding.errors import MachineError
        def image(side):
            file = io.BytesIO()
            Image.new("RGB", (side, side)).save(file, "JPEG", progressive=True)
            return np.frombuffer(file.getvalue(), np.uint8)
        small, large = image(64), image(5000)
        assert dali.decodes(small, None)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 60_000_000,) * 2)  # of 75, or 225
        try:
            print(dali.decodes(large, None))
        except MachineError:
            print("none")
    """
    command = [sys.executable, "-c", code]  # not this process: others of its threads allocate, too
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert ended.stdout.split() == ["none"], ended.stderr[-2000:]
