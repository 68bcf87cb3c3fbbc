"""Making the demo dump: same bytes however it is made, killed, repeated or replaced."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharding.errors import InputError
from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions

JOB = Path(__file__).parents[3] / "jobs/make_demo_dump.py"
SMALL = DumpOptions(train=3, validation=1, test=1, side=64)


def content(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(JOB), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    options = DumpOptions(train=110, validation=3, test=60, side=64)
    make_dump(options, tmp_path / "one", progress=False)
    make_dump(options, tmp_path / "two", workers=2, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    make_dump(SMALL, tmp_path / "a", progress=False)
    make_dump(DumpOptions(**{**vars(SMALL), "seed": 1}), tmp_path / "b", progress=False)
    assert not set(content(tmp_path / "a").values()) & set(content(tmp_path / "b").values())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    make_dump(SMALL, tmp_path / "few", progress=False)
    more = DumpOptions(**{**vars(SMALL), "train": 9})
    make_dump(more, tmp_path / "more", progress=False)

    def photographs(name: str) -> set[str]:
        return set(content(tmp_path / name / "images/train").values())

    assert len(photographs("few")) == 3
    assert photographs("few") < photographs("more")


def test_the_same_options_again_do_nothing(tmp_path: Path) -> None:
    assert make_dump(SMALL, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not make_dump(SMALL, tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_unfinished_dump_is_made_again(tmp_path: Path) -> None:
    make_dump(SMALL, tmp_path, progress=False)
    whole = content(tmp_path)
    (tmp_path / "dump.json").rename(tmp_path / "dump.unfinished.json")
    (tmp_path / "2017_11/train/images.csv").unlink()
    (tmp_path / "images/train/0123456789abcdef.jpg").write_bytes(b"cut off")
    assert make_dump(SMALL, tmp_path, progress=False)
    assert content(tmp_path) == whole


def test_other_options_replace_the_dump_and_leave_nothing_of_it(tmp_path: Path) -> None:
    large = DumpOptions(**{**vars(SMALL), "train": 8, "classes": 70})
    make_dump(large, tmp_path / "replaced", progress=False)
    make_dump(SMALL, tmp_path / "replaced", progress=False)
    make_dump(SMALL, tmp_path / "fresh", progress=False)
    assert content(tmp_path / "replaced") == content(tmp_path / "fresh")


def test_counts_are_in_the_stamp(tmp_path: Path) -> None:
    make_dump(SMALL, tmp_path, progress=False)
    counts = json.loads((tmp_path / "dump.json").read_text())["counts"]
    for split, number in SMALL.images.items():
        lines = (tmp_path / f"2017_11/{split}/annotations-human.csv").read_text().splitlines()[1:]
        objects = (tmp_path / f"ground_truth/{split}.csv").read_text().splitlines()[1:]
        assert counts[split] == {
            "images": number,
            "objects": len(objects),
            "rows": len(lines),
            "positive_rows": sum(line.endswith(",1") for line in lines),
        }


def test_a_killed_job_leaves_no_process_and_can_be_repeated(tmp_path: Path) -> None:
    sizes = ["--output", str(tmp_path), "--train", "100000", "--workers", "2", "--side", "64"]
    job = subprocess.Popen([sys.executable, str(JOB), *sizes], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("images/train/*.jpg")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    assert not (tmp_path / "dump.json").exists()
    make_dump(SMALL, tmp_path, progress=False)
    make_dump(SMALL, tmp_path / "fresh", progress=False)
    fresh = content(tmp_path / "fresh")
    assert fresh.items() <= content(tmp_path).items()
    assert len(list(tmp_path.glob("images/train/*.jpg"))) == SMALL.train


def test_somebody_elses_directory_is_refused_and_kept(tmp_path: Path) -> None:
    photo = tmp_path / "images/holiday.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"irreplaceable")
    with pytest.raises(InputError, match="not a demo dump"):
        make_dump(SMALL, tmp_path, progress=False)
    assert content(tmp_path).keys() == {"images/holiday.jpg"}


@pytest.mark.parametrize(
    "wrong",
    [{"classes": 1001}, {"classes": 2}, {"train": 0}, {"side": 10}, {"seed": -1}, {"test": 10**6}],
)
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="pass"):
        DumpOptions(**wrong)


def test_the_job_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        "1,001 classes. Fix: pass --classes": ["--output", tmp_path / "a", "--classes", 1001],
        "0 workers. Fix: pass --workers": ["--output", tmp_path / "a", "--workers", 0],
        "file: cannot be written": ["--output", tmp_path / "file"],
    }
    for message, arguments in cases.items():
        ended = run(*arguments)
        assert ended.returncode == 2
        *begin, error = ended.stderr.splitlines()
        assert message in error
        assert len(begin) <= 1, "the job says its name before it checks what it writes"


def test_the_job_makes_a_dump_once(tmp_path: Path) -> None:
    sizes = ["--train", 3, "--validation", 1, "--test", 1, "--side", 64, "--workers", 1]
    first = run("--output", tmp_path, *sizes)
    assert first.stdout.startswith("made: 3 train, 1 validation, 1 test images of 60 classes")
    assert run("--output", tmp_path, *sizes).stdout.startswith("already there:")
