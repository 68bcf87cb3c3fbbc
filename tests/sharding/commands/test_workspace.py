"""Datasets in a bucket: the same bytes as on a disk, over failures and kills."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.staging import Cache, open_dataset
from sharding.commands.options import (
    RemoveOptions,
    ReshardOptions,
    ShardOptions,
    VerifyOptions,
    ViewOptions,
)
from sharding.commands.prepare import prepare
from sharding.commands.remove import remove
from sharding.commands.reshard import reshard
from sharding.commands.shard import shard_dump
from sharding.commands.verify import VerifyReport, verify
from sharding.commands.view import view
from sharding.commands.workspace import open_workspace
from sharding.errors import InputError
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.layout import DESCRIPTIONS
from sharding.manifest import Dataset
from sharding.storage.retry import RetryPolicy
from tests.support.dumpmaking import MIDS, write_classes, write_labels
from tests.support.home import Home
from tests.support.killing import FORKS
from tests.support.photos import image_ids, tree
from tests.support.servers import Web, s3

FAST = RetryPolicy(tries=2, timeout=2.0, at_once=4, first_pause=0.01)
URL = "s3://data/sets/tiny"
VERSIONS = ("2017_11", "2018_04")


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    with s3() as web:
        yield web


@pytest.fixture
def bucket(server: Web) -> Iterator[Any]:
    """A boto3 bucket named "data", empty; every request to it is noted."""
    import boto3

    bucket = boto3.resource("s3", region_name="us-east-1").Bucket("data")
    bucket.create()
    server.asked.clear()
    yield bucket
    server.faults = {}
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture
def filled(bucket: Any, on_disk: Path, server: Web) -> Any:
    """The same, with a finished dataset in it."""
    for path in on_disk.rglob("*"):
        if path.is_file():
            key = f"sets/tiny/{path.relative_to(on_disk).as_posix()}"
            bucket.put_object(Key=key, Body=path.read_bytes())
    server.asked.clear()
    return bucket


def shard(inputs: tuple[Path, Path], output: str | Path, scratch: Path | None, **more: Any) -> str:
    settings = {"images_per_shard": 10, "fetch": FAST, **more}
    options = ShardOptions(
        annotations=inputs[0], images=str(inputs[1]), output=str(output), **settings
    )
    with open_workspace(options.output, options.fetch, scratch) as workspace:
        local = dataclasses.replace(options, output=str(workspace.directory))
        return str(shard_dump(prepare(local), map, workspace))


def relabel(dataset: str | Path, scratch: Path, dump: Path, **more: Any) -> str:
    options = ReshardOptions(dataset=str(dataset), annotations=dump, fetch=FAST, **more)
    with open_workspace(options.dataset, options.fetch, scratch) as workspace:
        local = dataclasses.replace(options, dataset=str(workspace.directory))
        return str(reshard(local, map, workspace))


def check(scratch: Path, **more: Any) -> tuple[VerifyReport, str]:
    options = VerifyOptions(dataset=URL, fetch=FAST, **more)
    with open_workspace(options.dataset, options.fetch, scratch) as workspace:
        report = verify(options, map, workspace)
    return report, str(report)


def objects(bucket: Any, prefix: str = "sets/tiny/") -> dict[str, str]:
    """Hash of every object, by its name below the prefix."""
    while True:
        try:
            return {
                found.key.removeprefix(prefix): hashlib.sha256(
                    found.get()["Body"].read()
                ).hexdigest()
                for found in bucket.objects.filter(Prefix=prefix)
                if not found.key.endswith("/")  # Arrow keeps a folder that it has emptied
            }
        except bucket.meta.client.exceptions.NoSuchKey:
            continue  # the server has just done what a killed process asked for last


def put_since(server: Web) -> set[str]:
    """Names below the dataset of everything that was put."""
    asked = [path.partition(" data/sets/tiny/") for path in list(server.asked)]
    return {name for method, found, name in asked if found and method in ("PUT", "POST")}


def second_dump(inputs: tuple[Path, Path], folder: Path) -> Path:
    """Other labels for the same training images, and for one that has no pixels yet."""
    names = [*image_ids(inputs[1], "train"), "f" * 16]
    rows = [f"{image_id},verification,{MIDS[0]},1" for image_id in names]
    return write_classes(write_labels(folder / "second", {"train": rows}, "v4"), release="v4")


def with_one_image_more(images: Path, folder: Path) -> Path:
    """The images, and one that only the second dump labels."""
    copies = shutil.copytree(images, folder / "images")
    first = image_ids(images, "train")[0]
    shutil.copy(images / f"train/{first}.jpg", copies / f"train/{'f' * 16}.jpg")
    return copies


def test_a_bucket_gets_the_bytes_that_a_directory_would(
    inputs, bucket, on_disk: Path, tmp_path: Path
) -> None:
    output = shard(inputs, URL, tmp_path)
    assert output.startswith(f"{URL} is finished")
    assert objects(bucket) == tree(on_disk)
    assert not list(tmp_path.iterdir()), "the workspace is removed"
    assert "already finished; nothing was done" in shard(inputs, URL, tmp_path)
    cached = open_dataset(URL, Cache(directory=tmp_path / "cache"))
    assert cached.digest == open_dataset(str(on_disk)).digest
    file = tmp_path / "place" / "tiny"
    shard(inputs, file.as_uri(), tmp_path)
    assert tree(file) == tree(on_disk)


def test_an_import_goes_into_a_bucket_too(inputs, bucket, tmp_path: Path) -> None:
    """Its single positives are a version of their own; another seed adds one more."""
    names = image_ids(inputs[1], "train")
    rows = [f"{one}.jpg,{('cat', 'cat|dog')[n % 2]}" for n, one in enumerate(names)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,labels", *rows]) + "\n")
    settings: dict[str, Any] = {"format": "csv", "source": inputs[1] / "train", "table": table}
    for seed in (1, 2):
        for output in (str(tmp_path / "tiny"), URL):
            options = ImportOptions(
                **settings, output=output, single_positive=True, seed=seed, images_per_shard=10
            )
            with open_workspace(output, FAST, tmp_path / "scratch") as workspace:
                local = dataclasses.replace(options, output=str(workspace.directory))
                summary = import_collection(prepare_import(local), map, workspace)
            assert str(summary).startswith(f"{output} is finished")
        assert objects(bucket) == tree(tmp_path / "tiny")


def test_a_bucket_that_stumbles_gets_the_same_bytes(
    inputs, bucket, server: Web, on_disk: Path, tmp_path: Path
) -> None:
    place = "data/sets/tiny"
    server.faults = {
        f"PUT {place}/images/train-000000.tar": [500, 503],
        f"PUT {place}/images/train-000001.idx": [503, 500, 500, 500],
        f"PUT {place}/images/test-000000.json": [500],
        f"PUT {place}/unfinished.json": [500],
        f"PUT {place}/dataset.json": [503],
        f"DELETE {place}/unfinished.json": [500],
    }
    shard(inputs, URL, tmp_path)
    assert objects(bucket) == tree(on_disk)
    assert not any(server.faults.values())


def test_a_bucket_that_refuses_is_one_line_and_nothing_is_lost(
    inputs, bucket, server: Web, on_disk: Path, tmp_path: Path
) -> None:
    failing = "images/validation-000000.json"
    for fault in (403, 500):
        server.faults = {f"PUT data/sets/tiny/{failing}": [fault] * 20}
        with pytest.raises(InputError) as caught:
            shard(inputs, URL, tmp_path)
        assert str(caught.value).startswith(f"{URL}/{failing}: cannot be written (")
        assert "then repeat the command" in str(caught.value)
        assert "dataset.json" not in objects(bucket)
    server.faults = {}
    assert "continued" in shard(inputs, URL, tmp_path)
    assert objects(bucket) == tree(on_disk)
    server.faults = {"data": [403] * 20}
    with pytest.raises(InputError, match=rf"{URL}: cannot be read \(refused.*credentials"):
        shard(inputs, URL, tmp_path)


def test_no_bucket_is_one_line(inputs, server: Web, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"s3://nowhere/x/.*there is no such bucket"):
        shard(inputs, "s3://nowhere/x", tmp_path)
    with pytest.raises(InputError, match="a web server takes no files"):
        shard(inputs, "https://example.com/x", tmp_path)


def test_a_place_that_holds_something_else_stays_as_it_is(inputs, bucket, tmp_path: Path) -> None:
    bucket.put_object(Key="sets/tiny/thesis/chapter.json", Body=b"years of work")
    before = objects(bucket)
    with pytest.raises(InputError, match=rf"{URL}: .*not empty \(it holds 'thesis'\)"):
        shard(inputs, URL, tmp_path)
    with pytest.raises(InputError, match=rf"{URL}/dataset.json: not a dataset"):
        check(tmp_path)
    assert objects(bucket) == before


def test_another_dataset_is_refused(inputs, filled, tmp_path: Path) -> None:
    before = objects(filled)
    with pytest.raises(InputError, match=rf"{URL}/dataset.json: .*images_per_shard was 10, is 5"):
        shard(inputs, URL, tmp_path, images_per_shard=5)
    assert objects(filled) == before


def in_a_process(environment: dict[str, str], *arguments: Any) -> None:
    os.environ.update(environment)
    shard(*arguments)


def test_killed_anywhere_it_finishes_with_the_same_bytes(
    inputs, bucket, server: Web, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th request that writes is the last of the process, which dies before it is answered."""
    server.asked.clear()
    shard(inputs, URL, tmp_path)
    writes = sum(" " in path for path in server.asked)
    bucket.objects.all().delete()
    moments = [*range(0, writes - 1, 4), writes - 1]
    kept = 0
    for last in moments:
        process = FORKS.Process(
            target=in_a_process, args=(server.environment, inputs, URL, tmp_path)
        )
        left = [last]

        def deadly(path: str, process: Any = process, left: list[int] = left) -> None:
            server.asked.append(path)
            if " " in path:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(process.pid, signal.SIGKILL)

        monkeypatch.setattr(server, "fault", deadly)
        process.start()
        process.join()
        monkeypatch.undo()
        found = objects(bucket)
        assert process.exitcode == -signal.SIGKILL, f"not killed at request {last}"
        if "dataset.json" in found:
            records = {name for name in found if re.fullmatch(r"images/.*\.json", name)}
            assert found.keys() - records - {"unfinished.json"} == tree(on_disk).keys()
            assert tree(on_disk).items() <= found.items()
        kept += "continued" in (output := shard(inputs, URL, tmp_path)) or "already" in output
        assert objects(bucket) == tree(on_disk), f"killed at request {last}"
        bucket.objects.all().delete()
    assert kept >= len(moments) // 2


def test_one_job_at_a_time_on_a_machine(inputs, bucket, tmp_path: Path) -> None:
    def busy(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        with pytest.raises(InputError, match=rf"{URL}: another job is writing"):
            shard(inputs, URL, tmp_path)
        return map(function, items)

    options = ShardOptions(
        annotations=inputs[0], images=str(inputs[1]), output=URL, images_per_shard=10
    )
    with open_workspace(URL, FAST, tmp_path) as workspace:
        local = dataclasses.replace(options, output=str(workspace.directory))
        shard_dump(prepare(local), busy, workspace)


def test_a_workspace_on_nfs_is_removed(bucket, tmp_path: Path, monkeypatch) -> None:
    """NFS keeps a file that is open under another name, and so its directory."""
    rmtree = shutil.rmtree

    def on_nfs(path: Path, ignore_errors: bool = False) -> None:
        is_open = any(path.rglob(".lock"))
        rmtree(path, ignore_errors=ignore_errors)
        if is_open:
            path.mkdir()
            (path / ".nfs0001").touch()
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    monkeypatch.setattr(shutil, "rmtree", on_nfs)
    with open_workspace(URL, FAST, tmp_path) as workspace:
        (workspace.directory / "README.md").write_text("a dataset")
    assert not list(tmp_path.iterdir())
    assert [item.key for item in bucket.objects.all()] == ["sets/tiny/README.md"]


def test_images_that_were_missing_are_found_later(inputs, bucket, tmp_path: Path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    lost = images / f"train/{image_ids(images, 'train')[0]}.jpg"
    content = lost.read_bytes()
    lost.unlink()
    local, dump = tmp_path / "tiny", second_dump(inputs, tmp_path)
    for place in (local, URL):
        assert "1 missing" in shard((inputs[0], images), place, tmp_path)
        relabel(place, tmp_path, dump)
    before = objects(bucket)
    assert before == tree(local)
    lost.write_bytes(content)
    for place in (local, URL):
        assert "nothing" in shard((inputs[0], images), place, tmp_path, retry_failed=True)
    after = objects(bucket)
    assert after == tree(local)
    tars = {name for name in before if name.endswith(".tar")}
    assert {name: after[name] for name in tars} == {name: before[name] for name in tars}
    assert check(tmp_path)[0].intact
    # Of the two images without pixels one is left; the other's labels are where its pixels are.
    first, second = (f"labels/{name}/train.without_pixels.parquet" for name in VERSIONS)
    assert {first, second} <= before.keys()
    assert {first, second} & after.keys() == {second}
    assert Dataset.open(local).manifest.labels[VERSIONS[1]].splits["train"].positives == 24


def test_images_of_no_use_leave_nothing_behind(inputs, bucket, tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / f"images/train/{'a' * 16}.jpg").write_bytes(b"of another dump")
    with pytest.raises(InputError, match="none of the 35 labelled images could be used"):
        shard((inputs[0], tmp_path / "images"), URL, tmp_path / "scratch")
    assert objects(bucket) == {}


def test_archives_need_a_place_that_all_workers_reach(
    inputs, bucket, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(inputs[1], arcname=".")
    packed = (inputs[0], tmp_path / "all.tar.gz")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"all\.tar\.gz.*--scratch"):
        shard(packed, URL, None)
    shard(packed, URL, tmp_path / "shared")
    assert objects(bucket) == tree(on_disk)


def test_a_sound_dataset_is_well(filled, server: Web, tmp_path: Path) -> None:
    result, output = check(tmp_path)
    assert result.intact
    assert output.startswith(f"{URL} is intact: 35 images")
    assert not put_since(server)
    assert check(tmp_path, quick=True)[0].intact


def test_damage_is_named_and_mended(inputs, filled, on_disk: Path, tmp_path: Path) -> None:
    def break_it() -> None:
        content = bytearray((on_disk / "images/train-000001.tar").read_bytes())
        content[len(content) // 2] ^= 1
        filled.put_object(Key="sets/tiny/images/train-000001.tar", Body=bytes(content))
        filled.Object("sets/tiny/images/train-000000.idx").delete()
        filled.Object("sets/tiny/images/test-000000.tar").delete()
        filled.put_object(Key="sets/tiny/images/train-000099.tar", Body=b"of a killed job")
        filled.put_object(Key="sets/tiny/_info.json", Body=b"{}")

    break_it()
    result, output = check(tmp_path)
    assert {problem.path: problem.what for problem in result.problems} == {
        "_info.json": "differs from the manifest",
        "images/test-000000.tar": "missing",
        "images/train-000000.idx": "missing",
        "images/train-000001.tar": "its content has changed (SHA-256 differs)",
        "images/train-000099.tar": "the manifest does not name it",
    }
    assert f"{URL} has 5 problems" in output
    result, _ = check(tmp_path, repair=True)
    assert [problem.path for problem in result.remaining] == [
        "images/test-000000.tar",
        "images/train-000001.tar",
    ]
    result, _ = check(tmp_path, repair=True, images=str(inputs[1]))
    assert result.intact
    aside = filled.Object("sets/tiny/set_aside/1/images/train-000099.tar")
    assert aside.get()["Body"].read() == b"of a killed job"
    aside.delete()
    assert objects(filled) == tree(on_disk)


def test_lost_labels_come_back_from_the_tars(filled, on_disk: Path, tmp_path: Path) -> None:
    filled.Object("sets/tiny/labels/2017_11/train.parquet").delete()
    assert check(tmp_path, repair=True)[0].intact
    assert objects(filled) == tree(on_disk)


@pytest.mark.parametrize(
    "lost",
    [
        ("classes.parquet", "quarantine.parquet", "README.md"),
        ("images/train-000001.tar", "labels/2017_11/train.parquet"),
        ("images/train-000001.tar", "images/train-000001.idx", "labels/2017_11/train.parquet"),
    ],
)
def test_the_command_that_made_it_makes_again_what_was_lost(
    inputs, filled, on_disk: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    for name in lost:
        filled.Object(f"sets/tiny/{name}").delete()
    assert f"{URL} is finished, in" in shard(inputs, URL, tmp_path)
    assert objects(filled) == tree(on_disk)


def test_a_lost_tar_and_its_index_are_mended(inputs, filled, on_disk: Path, tmp_path: Path) -> None:
    for name in ("tar", "idx"):
        filled.Object(f"sets/tiny/images/train-000001.{name}").delete()
    assert check(tmp_path, repair=True, images=str(inputs[1]))[0].intact
    assert objects(filled) == tree(on_disk)


def test_new_labels_put_no_image_byte(
    inputs, filled, server: Web, on_disk: Path, tmp_path: Path
) -> None:
    dump = second_dump(inputs, tmp_path)
    local = shutil.copytree(on_disk, tmp_path / "tiny")
    relabel(local, tmp_path, dump)
    output = relabel(URL, tmp_path, dump)
    assert "--labels 2018_04" in output
    assert objects(filled) == tree(local)
    assert put_since(server) == {
        "dataset.json",
        "README.md",
        "_info.json",
        *DESCRIPTIONS,
        "quarantine.parquet",
        "labels/2018_04/train.parquet",
        "labels/2018_04/train.without_pixels.parquet",
        "labels/2018_04/wanted.txt",
        "labels/2018_04/diff.json",
        "labels/README.md",
    }
    diff = json.loads((local / "labels/2018_04/diff.json").read_text())
    assert diff["splits"]["train"]["images_without_pixels"] == 1


def test_new_images_and_rewriting_are_as_on_a_disk(
    inputs, filled, on_disk: Path, tmp_path: Path
) -> None:
    dump, images = second_dump(inputs, tmp_path), with_one_image_more(inputs[1], tmp_path)
    local = shutil.copytree(on_disk, tmp_path / "tiny")
    for more in ({"images": str(images)}, {"rewrite": True}):
        relabel(local, tmp_path, dump, **more)
        relabel(URL, tmp_path, dump, **more)
        assert objects(filled) == tree(local)
    assert check(tmp_path)[0].intact


def test_a_resharding_stopped_amid_its_tables_is_finished(
    inputs, filled, server: Web, on_disk: Path, tmp_path: Path
) -> None:
    dump, images = second_dump(inputs, tmp_path), with_one_image_more(inputs[1], tmp_path)
    local = shutil.copytree(on_disk, tmp_path / "tiny")
    relabel(local, tmp_path, dump, images=str(images))
    for table in ("labels/2017_11/train.parquet", "labels/2018_04/train.parquet", "dataset.json"):
        server.faults = {f"PUT data/sets/tiny/{table}": [500] * 20}
        with pytest.raises(InputError, match="cannot be written"):
            relabel(URL, tmp_path, dump, images=str(images))
    server.faults = {}
    relabel(URL, tmp_path, dump, images=str(images))
    assert objects(filled) == tree(local)


def take_down(dataset: str | Path, scratch: Path, *ids: str) -> str:
    options = RemoveOptions(dataset=str(dataset), ids=ids, fetch=FAST)
    with open_workspace(options.dataset, options.fetch, scratch) as workspace:
        return str(remove(options, map, workspace))


def test_a_takedown_is_as_on_a_disk_and_goes_on_where_it_stopped(
    inputs, filled, server: Web, on_disk: Path, tmp_path: Path
) -> None:
    local, dump = shutil.copytree(on_disk, tmp_path / "tiny"), second_dump(inputs, tmp_path)
    gone = image_ids(inputs[1], "train")[2], image_ids(inputs[1], "test")[0], "f" * 16
    relabel(local, tmp_path, dump)
    relabel(URL, tmp_path, dump)
    take_down(local, tmp_path, *gone)
    # The first put of the manifest marks the images; the second follows tars and tables.
    for faults in (
        {"dataset.json": [500] * 20},
        {"images/train-000003.tar": [500] * 20},
        {"labels/2018_04/train.parquet": [500] * 20},
        {"dataset.json": [500] * 20},
    ):
        server.faults = {f"PUT data/sets/tiny/{name}": codes for name, codes in faults.items()}
        with pytest.raises(InputError, match="cannot be written"):
            take_down(URL, tmp_path, *gone)
    server.faults = {}
    assert "2 tars replaced" in take_down(URL, tmp_path, *gone)
    assert objects(filled) == tree(local)
    assert check(tmp_path)[0].intact


def test_a_takedown_deletes_the_tar_of_a_killed_job(
    inputs, filled, on_disk: Path, tmp_path: Path
) -> None:
    for suffix in (".tar", ".idx"):
        content = (on_disk / f"images/test-000000{suffix}").read_bytes()
        filled.put_object(Key=f"sets/tiny/images/test-000099{suffix}", Body=content)
    filled.put_object(Key="sets/tiny/images/test-000099.json", Body=b"{}")
    take_down(URL, tmp_path, image_ids(inputs[1], "test")[0])
    assert not [name for name in objects(filled) if "test-000099" in name]
    assert check(tmp_path)[0].intact


def test_a_page_is_made_of_the_tars_that_it_shows(
    inputs, filled, server: Web, tmp_path: Path
) -> None:
    options = ViewOptions(dataset=URL, output=tmp_path / "page.html", split="test", fetch=FAST)
    with open_workspace(options.dataset, options.fetch, tmp_path) as workspace:
        assert view(options, workspace).shown == len(image_ids(inputs[1], "test"))
        tars = workspace.directory.glob("images/*.tar")
        assert not any(tar.stat().st_blocks for tar in tars), "one tar at a time is on the disk"
    read = {path for path in server.asked if path.endswith(".tar")}
    assert read == {"data/sets/tiny/images/test-000000.tar"}
    assert put_since(server) == set()


@pytest.mark.ray
def test_the_jobs_themselves(inputs, bucket, server: Web, on_disk: Path, tmp_path: Path) -> None:
    class Clouded(Home):
        @property
        def environment(self) -> dict[str, str]:
            return {**super().environment, **server.environment}

    home = Clouded(tmp_path)
    source = ("--annotations", str(inputs[0]), "--images", str(inputs[1]))
    output = home.run("shard_openimages.py", *source, "--output", URL, "--images-per-shard", "10")
    assert f"{URL} is finished" in output
    assert objects(bucket) == tree(on_disk)
    assert f"{URL} is intact" in home.run("verify_dataset.py", "--dataset", URL)
    dump = str(second_dump(inputs, tmp_path))
    output = home.run("reshard_openimages.py", "--dataset", URL, "--annotations", dump)
    assert f"labels 2018_04 of {URL} are written" in output
