"""The shard job as people run it: Ray workers and the driver die by SIGKILL, the dataset does not.

Each run is the real script, alone in an empty HOME.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.dumpmaking import MIDS
from tests.support.home import Home
from tests.support.photos import broken_images, image_ids, tree, write_photo_dump

pytestmark = pytest.mark.ray
SIZES = {"train": 240, "validation": 20, "test": 20}
ARGUMENTS = ("--annotations", "in/dump", "--images", "in/jpegs", "--images-per-shard", "12")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    # Large pictures: most of the run is spent on them, so that most kills hit work.
    write_photo_dump(home.directory / "in", SIZES, side=900)
    return home


@pytest.fixture(scope="module")
def joined(home: Home, ray_address: str) -> Home:
    """The same, whose jobs join a Ray that nobody kills."""
    return Home(home.directory, ray_address)


@pytest.fixture(scope="module")
def undisturbed(home: Home, joined: Home) -> dict[str, str]:
    output = joined.run("shard_openimages.py", *ARGUMENTS, "--output", "a/dataset", *SHRINK)
    assert "240 images in" in output
    assert "set aside    nothing" in output
    return tree(home.directory / "a/dataset")


SHRINK = ("--shorter-side", "64")


def start(home: Home, output: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "shard_openimages.py", *ARGUMENTS, *SHRINK, "--output", output],
        cwd=home.directory,
        env=home.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_shards(directory: Path, count: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while len(list(directory.glob("images/*.json"))) < count and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    driver.send_signal(signal.SIGKILL)


def kill_worker(driver: subprocess.Popen[bytes]) -> None:
    """Kill every process that runs tasks; Ray's own agents, also its children, are left alone."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith(("ray::_call", "ray::IDLE")):
                process.kill()
        except psutil.NoSuchProcess:
            continue


@pytest.mark.parametrize("kill", [kill_driver, kill_worker])
def test_killed_while_writing_it_ends_in_the_same_bytes(
    home: Home, undisturbed: dict[str, str], kill: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    output = f"{kill.__name__}/dataset"
    rng = random.Random(kill.__name__)
    kills = int(os.environ.get("OI_KILLS", "1"))
    for attempt in range(3 * kills):
        driver = start(home, output)
        wait_for_shards(home.directory / output, rng.randrange(1, 20), driver)
        time.sleep(rng.random() / 5)
        early = driver.poll() is None
        if early:
            kill(driver)
        status = driver.wait(timeout=600)
        kills -= early and status == (-signal.SIGKILL if kill is kill_driver else 0)
        if status == 0:
            assert tree(home.directory / output) == undisturbed, f"attempt {attempt}"
            shutil.rmtree(home.directory / output)
        if not kills:
            break
    assert not kills, "the job was always faster than the kill"
    if kill is kill_driver:
        printed = home.run("shard_openimages.py", *ARGUMENTS, *SHRINK, "--output", output)
        assert "finished before" in printed or "already finished" in printed
        assert tree(home.directory / output) == undisturbed


def test_new_labels_and_a_checkup_are_one_command_each(
    joined: Home, undisturbed: dict[str, str]
) -> None:
    shutil.copytree(joined.directory / "a/dataset", joined.directory / "b/dataset")
    dataset = ("--dataset", "b/dataset")
    reshard = ("reshard_openimages.py", *dataset, "--annotations", "in/dump", "--name", "second")
    output = joined.run(*reshard, "--rewrite")
    assert "240 images" in output
    assert "tars rewritten" in output
    assert "--labels second" in output
    output = joined.run("verify_dataset.py", *dataset)
    assert "is intact" in output
    (damaged, *_) = sorted((joined.directory / "b/dataset/images").glob("*.idx"))
    damaged.write_text("v1.2 0\n")
    output = joined.run("verify_dataset.py", *dataset, status=1)
    assert f"problem: images/{damaged.name}: its content has changed" in output
    output = joined.run("verify_dataset.py", *dataset, "--repair")
    assert f"mended: images/{damaged.name}" in output


def test_bad_input_is_one_line_and_a_list(joined: Home) -> None:
    images = shutil.copytree(joined.directory / "in/jpegs", joined.directory / "bad")
    first, second = image_ids(images, "test")[:2]
    (images / f"test/{first}.jpg").write_bytes(broken_images()["half"])
    (images / f"test/{second}.jpg").unlink()
    dump = shutil.copytree(joined.directory / "in/dump", joined.directory / "baddump")
    labels = dump / "2017_11/test/annotations-human.csv"
    labels.write_text(labels.read_text() + f"xyz,verification,{MIDS[0]},1\n")
    arguments = ("--annotations", "baddump", "--images", "bad", "--output", "listed")
    output = joined.run("shard_openimages.py", *arguments)
    assert "1 missing" in output
    assert "1 damaged JPEG" in output
    assert "1 bad_id" in output
    strict = ("--strict", "--output", "strict")
    output = joined.run("shard_openimages.py", *arguments[:-2], *strict, status=2)
    assert output.count("error:") == 1
    assert "row 42" in output
    assert "Traceback" not in output
    assert not (joined.directory / "strict").exists()
    output = joined.run(
        "shard_openimages.py", "--annotations", "in/dump", "--images", "bad", *strict, status=2
    )
    assert "image cannot be used" in output
    assert "Traceback" not in output
