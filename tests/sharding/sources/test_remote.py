"""Images over a network: what may pass is tried again, what may not is a row with a reason."""

from __future__ import annotations

import datetime
import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from email.utils import format_datetime
from functools import partial
from types import SimpleNamespace

import pytest
import requests
from pyarrow import fs

from sharding.commands.options import ShardOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.commands.workspace import open_workspace
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.sources.open import open_source
from sharding.sources.remote import SILENT, RemoteSource
from sharding.storage.arrow_transport import file_system
from sharding.storage.http_transport import _pause_asked_for
from sharding.storage.retry import (
    MISSING,
    BadImage,
    RetriesExhausted,
    RetryPolicy,
    TransientError,
    retry,
)
from tests.support import commands
from tests.support.photos import image_ids, tree
from tests.support.servers import FAST, Web, s3, serving

ID = "0123456789abcdef"
shard = partial(commands.shard, fetch=FAST)


@pytest.fixture
def web(inputs) -> Iterator[Web]:
    root = inputs[1]
    with serving(
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.jpg")}
    ) as w:
        yield w


def read(source, *wanted: str) -> list[bytes]:
    with source.reader("train", wanted) as read:
        return [bytes(read(image_id)) for image_id in wanted]


def test_a_web_server_that_stumbles_gives_the_same_bytes(
    web, inputs, from_directory, tmp_path
) -> None:
    paths = sorted(web.files)
    kinds = ([500], [503, 429], ["short"], ["close", 502], ["hang"])
    web.faults = {path: list(kind) for path, kind in zip(paths, kinds * 3, strict=False)}
    shard((inputs[0], web.url), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory
    assert not any(web.faults.values())


def test_what_cannot_be_had_is_set_aside_and_retried_later(
    web, inputs, from_directory, tmp_path
) -> None:
    first, second, third = (f"train/{i}.jpg" for i in image_ids(inputs[1], "train")[:3])
    kept = web.files.pop(first)
    web.faults = {second: [500] * 3, third: [403]}
    shard((inputs[0], web.url), tmp_path / "out")
    reasons = {
        e.source: e.reason for e in Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    }
    assert reasons == {
        f"{web.url}/{first}": "missing",
        f"{web.url}/{second}": "not fetched in 3 tries: HTTP status 500",
        f"{web.url}/{third}": "refused: HTTP status 403",
    }
    web.files[first] = kept
    output = str(shard((inputs[0], web.url), tmp_path / "out", retry_failed=True))
    assert "set aside    nothing" in output
    assert "24 images" in output


@pytest.mark.parametrize("fault", ["drip", "drip head"])
def test_a_server_that_drips_does_not_outlast_the_deadline(web, fault: str) -> None:
    path = f"train/{ID}.jpg"
    web.files, web.faults = {path: bytes(200)}, {path: [fault]}  # each byte is in time
    source = RemoteSource.open(web.url, RetryPolicy(tries=1, timeout=0.5))
    began = time.monotonic()
    with pytest.raises(BadImage, match="slower than 2 s"):
        read(source, ID)
    assert time.monotonic() - began < 15  # of the 30 that the whole body takes
    assert read(source, ID) == [bytes(200)]


def test_other_layouts_and_names(web) -> None:
    web.files = {f"{ID}.jpg": b"flat", f"own/train-{ID}.jpeg": b"own"}
    assert read(RemoteSource.open(web.url, FAST), ID) == [b"flat"]
    source = open_source(web.url + "/own/{split}-{id}.jpeg", FAST)
    assert read(source, ID) == [b"own"]
    assert source.name("train", ID) == f"{web.url}/own/train-{ID}.jpeg"
    with pytest.raises(BadImage, match=MISSING):
        read(source, "f" * 16)


def test_images_come_in_order_and_no_more_than_allowed_at_once(web) -> None:
    ids = [f"{number:016x}" for number in range(40)]
    web.files = {f"train/{i}.jpg": i.encode() for i in ids}
    web.delay = 0.01
    assert read(RemoteSource.open(web.url, FAST), *ids) == [i.encode() for i in ids]
    assert 1 < web.most_together <= FAST.at_once


def test_a_dead_server_ends_the_job_instead_of_emptying_it() -> None:
    quick = RetryPolicy(tries=1, timeout=0.2, at_once=4, first_pause=0.01)
    source = RemoteSource.open("http://127.0.0.1:9", quick)
    ids = [f"{number:016x}" for number in range(SILENT)]
    with source.reader("train", ids) as read:
        for image_id in ids[:-1]:
            with pytest.raises(RetriesExhausted, match="Connection"):
                read(image_id)
        with pytest.raises(InputError, match="in a row could not be fetched"):
            read(ids[-1])


@pytest.mark.parametrize("status", [403, 500, 200])
def test_a_site_that_blocks_midway_ends_the_job_and_is_asked_again(
    web, inputs, from_directory, tmp_path, status
) -> None:
    whole = dict(web.files)
    came = [f"train/{i}.jpg" for i in image_ids(inputs[1], "train")[:5]]
    if status == 200:  # a page for people
        pages = dict.fromkeys(whole, b"\n<!DOCTYPE html><title>Are you a robot?</title>")
        web.files = {**pages, **{path: whole[path] for path in came[1:]}}
    else:
        web.faults = {path: [status] * 99 for path in whole if path not in came[1:]}
        web.faults |= {path: [200] + [status] * 9 for path in came}
    with pytest.raises(InputError, match=r"images could not be fetched .*finished shards are kept"):
        shard((inputs[0], web.url), tmp_path / "out")
    web.files, web.faults = whole, {}
    shard((inputs[0], web.url), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


def test_a_bucket_that_refuses_all_that_no_tar_has_is_no_obstacle(web, inputs, tmp_path) -> None:
    lost = [f"{i}.jpg" for i in image_ids(inputs[1], "train")[:2]]
    for name in lost:
        del web.files[f"train/{name}"]
    shard((inputs[0], web.url), tmp_path / "out")
    web.faults = {path: [403] * 9 for name in lost for path in (name, f"train/{name}")}
    done = commands.relabel(tmp_path / "out", inputs[0], images=web.url, fetch=FAST)
    assert (done.added, done.wanted["train"]) == (0, 2)
    web.faults |= {path: [403] * 9 for path in web.files}  # all of it is blocked
    with pytest.raises(InputError, match="2 images could not be fetched"):
        commands.relabel(tmp_path / "out", inputs[0], images=web.url, fetch=FAST)


def test_a_bucket_that_refuses_what_it_lacks_is_searched_on(web) -> None:
    ids = [f"{number:016x}" for number in range(SILENT + 8)]
    web.files = {f"{i}.jpg": i.encode() for i in ids[:4]}
    web.faults = {f"train/{i}.jpg": [403] * 9 for i in ids}
    web.faults |= {f"{i}.jpg": [403] * 9 for i in ids[4:]}
    with RemoteSource.open(web.url, FAST).reader("train", ids) as read:
        assert [bytes(read(i)) for i in ids[:4]] == [i.encode() for i in ids[:4]]
        for image_id in ids[4:]:
            with pytest.raises(BadImage, match="refused: HTTP status 403"):
                read(image_id)


def test_a_signed_url_keeps_its_query_behind_the_name(web) -> None:
    web.files = {f"own/{ID}.jpg?sig=1": b"signed"}
    assert read(RemoteSource.open(f"{web.url}/own?sig=1", FAST), ID) == [b"signed"]
    web.files = {f"own/{ID}.jpg?sig=a==": b"signed"}
    assert read(RemoteSource.open(f"{web.url}/own?sig=a==", FAST), ID) == [b"signed"]


def test_a_signature_is_written_nowhere(web, inputs, tmp_path, capfd) -> None:
    signature = "X-Amz-Signature=0123abcd"
    (lost, *_) = image_ids(inputs[1], "train")
    web.files = {f"{path}?{signature}": content for path, content in web.files.items()}
    del web.files[f"train/{lost}.jpg?{signature}"]
    said = str(shard((inputs[0], f"{web.url}?{signature}"), tmp_path / "out"))
    (entry,) = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert entry.image_id == lost
    assert entry.source.endswith("?X-Amz-Signature=***")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in files if b"0123abcd" in path.read_bytes()]
    assert "0123abcd" not in said + "".join(capfd.readouterr())


@pytest.mark.parametrize("query", ["get?file=", "get?key=1&file=images/"])
def test_a_query_that_ends_in_a_path_goes_on_with_the_name(web, query) -> None:
    web.files = {f"{query}train/{ID}.jpg": b"asked"}
    assert read(RemoteSource.open(f"{web.url}/{query}", FAST), ID) == [b"asked"]


@pytest.mark.parametrize(
    "url",
    [
        "http://farm5..staticflickr.invalid/{id}.jpg",
        f"http://{'a' * 70}.invalid/{{id}}.jpg",
        "http://[::1/{id}.jpg",
        "http://host:port/{id}.jpg",
        "http://\u200d.invalid/{id}.jpg",
        "http:///{id}.jpg",
    ],
)
def test_a_host_that_cannot_be_is_a_reason(url: str) -> None:
    with pytest.raises(BadImage, match=r"not a URL|not fetched"):
        read(RemoteSource(url=url, policy=FAST), ID)


def test_a_redirect_in_latin_1_is_followed(web) -> None:
    web.files = {"caf%E9.jpg": b"coffee"}
    web.redirects = {f"{ID}.jpg": b"/caf\xe9.jpg"}
    assert read(RemoteSource.open(f"{web.url}/{{id}}.jpg", FAST), ID) == [b"coffee"]


def test_a_certificate_that_does_not_hold_is_told_at_once(monkeypatch) -> None:
    asked: list[str] = []

    def refuse(_: object, url: str, **__: object) -> None:
        asked.append(url)
        raise requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] has expired")

    monkeypatch.setattr(requests.Session, "get", refuse)
    ids = ["0" * 16, "1" * 16]

    def all_of(source: RemoteSource) -> None:
        with source.reader("train", ids) as read:
            for image_id in ids:
                with pytest.raises(BadImage, match="its certificate does not hold"):
                    read(image_id)

    with pytest.raises(InputError, match=r"2 images .*certificate .*Fix: .*REQUESTS_CA_BUNDLE"):
        all_of(RemoteSource.open("https://host/{id}.jpg", FAST))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("asked", "longest"), [("2", 2.0), ("0.5", 0.5), ("soon", 0.0), ("nan", 0.0), ("", 0.0)]
)
def test_the_pause_a_server_asks_for_is_read(asked: str, longest: float) -> None:
    assert max(0.0, _pause_asked_for(_answer(asked))) == longest


def test_a_date_to_come_back_at_is_read() -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20)
    assert 15 < _pause_asked_for(_answer(format_datetime(later, usegmt=True))) <= 20


def _answer(retry_after: str) -> requests.Response:
    answer = requests.Response()
    answer.headers["Retry-After"] = retry_after
    return answer


def test_pauses_double_up_to_a_minute_and_honour_the_server(monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("sharding.storage.retry.time", SimpleNamespace(sleep=slept.append))
    failures = iter([TransientError("busy")] * 8 + [TransientError("busy", wait=5)])

    def fetch() -> str:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return "done"

    assert retry(fetch, RetryPolicy(tries=20, first_pause=1.0)) == "done"
    for pause, longest in zip(slept[:8], (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert longest / 2 <= pause <= longest
    assert slept[8] >= 5


@pytest.mark.parametrize("name", ["tries", "timeout", "at_once", "first_pause"])
def test_senseless_patience_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--fetch"):
        RetryPolicy(**{name: 0})


@pytest.mark.parametrize("scheme", ["gopher", "github"])  # the second wants an owner
def test_a_scheme_that_is_not_served_is_one_line(scheme: str) -> None:
    with pytest.raises(InputError, match=f"no file system for {scheme}"):
        open_source(f"{scheme}://old/place", FAST)


@pytest.fixture(scope="module")
def bucket(inputs) -> Iterator[Web]:
    import boto3

    with s3() as server:
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        for path in inputs[1].rglob("*.jpg"):
            key = f"set/{path.relative_to(inputs[1]).as_posix()}"
            client.put_object(Bucket="photos", Key=key, Body=path.read_bytes())
        yield server


def test_s3_that_stumbles_gives_the_same_bytes(bucket, inputs, from_directory, tmp_path) -> None:
    ids = image_ids(inputs[1], "train")
    kinds = ([500], [503, 503], ["short"], ["hang"])
    bucket.faults = {
        f"photos/set/train/{i}.jpg": list(kind) for i, kind in zip(ids, kinds * 2, strict=False)
    }
    shard((inputs[0], "s3://photos/set"), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory
    assert not any(bucket.faults.values())


def test_s3_says_what_is_missing_and_what_failed(bucket, inputs) -> None:
    (first, second, *_) = image_ids(inputs[1], "train")
    bucket.faults = {f"photos/set/train/{first}.jpg": [500] * 3}
    source = open_source("s3://photos/set", FAST)
    with source.reader("train", [first, second]) as read:
        with pytest.raises(RetriesExhausted, match="not fetched in 3 tries"):
            read(first)
        assert bytes(read(second)) == (inputs[1] / f"train/{second}.jpg").read_bytes()
        with pytest.raises(BadImage, match=f"^{MISSING}$"):
            read("f" * 16)


def test_archives_of_a_bucket_are_found_by_a_pattern(bucket, inputs, from_directory, tmp_path):
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    for split in ("train", "validation", "test"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path in sorted((inputs[1] / split).iterdir()):
                archive.add(path, arcname=f"{split}/{path.name}")
        client.put_object(Bucket="photos", Key=f"tar/{split}_0.tar.gz", Body=packed.getvalue())
    client.put_object(Bucket="photos", Key="tar/notes.txt", Body=b"none of this")
    bucket.faults = {"photos/tar/train_0.tar.gz": [500, "short"]}
    shard((inputs[0], "s3://photos/tar/*.tar.gz"), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory
    with pytest.raises(InputError, match="no archive is there"):
        open_source("s3://photos/tar/*.tar", FAST)


@pytest.fixture
def google(monkeypatch) -> Iterator[list[dict[str, object]]]:
    """Buckets in memory where Arrow's client for Google would ask its network; how it was made."""
    import fsspec

    asked: list[dict[str, object]] = []

    def client(**options: object) -> fs.FileSystem:
        asked.append(options)
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))

    assert file_system("gs", "anonymous@photos", FAST).type_name == "gcs"
    monkeypatch.setattr(fs, "GcsFileSystem", client)
    yield asked
    fsspec.filesystem("memory").store.clear()


def test_gs_is_served_by_arrows_client(google, inputs, from_directory, tmp_path) -> None:
    import fsspec

    buckets = fsspec.filesystem("memory")
    for path in inputs[1].rglob("*.jpg"):
        key = path.relative_to(inputs[1]).as_posix()
        buckets.pipe(f"/photos/set/{key}", path.read_bytes())
    (ours, *_) = image_ids(inputs[1], "train")
    assert read(open_source("gs://anonymous@photos/set", FAST), ours)
    buckets.mkdir("/datasets")
    with open_workspace("gs://datasets/tiny", FAST) as workspace:
        options = ShardOptions(
            annotations=inputs[0],
            images="gs://photos/set",
            output=str(workspace.directory),
            images_per_shard=10,
            dataset_name="tiny",
            fetch=FAST,
        )
        shard_dump(prepare(options), map, workspace)
    put = {
        name.removeprefix("/datasets/tiny/"): hashlib.sha256(buckets.cat(name)).hexdigest()
        for name in buckets.find("/datasets/tiny")
    }
    assert put == from_directory
    limit = datetime.timedelta(seconds=FAST.timeout)
    assert {options["retry_time_limit"] for options in google} == {limit}
    assert [options["anonymous"] for options in google][:2] == [True, False]


def test_other_schemes_are_served_by_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({f"/place/train/{ID}.jpg": b"remembered"})
    source = open_source("memory://place", FAST)
    assert read(source, ID) == [b"remembered"]
    with pytest.raises(BadImage, match=f"^{MISSING}$"):
        read(source, "f" * 16)


def test_readers_leave_no_thread_behind(web) -> None:
    web.files = {f"train/{ID}.jpg": b"x"}
    before = threading.active_count()
    read(RemoteSource.open(web.url, FAST), ID)
    assert not [t for t in threading.enumerate() if t.name.startswith("fetch")]
    assert threading.active_count() <= before + 2
