"""Bulk predictions: every image once, the model's labels, errors as rows, resumed by repeating."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.cluster import session, tasks
from pipeline.config.commands import PredictConfig
from pipeline.inference import pixels, predict_plan
from pipeline.inference.predict import PartPredictor, _set_aside, predict
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.pipeline.inference.test_predictor import jpegs
from tests.pipeline.models.test_operating_points import give
from tests.support.buckets import Bucket
from tests.support.models import write_checkpoint
from tests.support.servers import serving


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bulk") / "checkpoint", squares)


def in_process(
    kind: type, arguments: dict[str, Any], items: Sequence[Any], **_: Any
) -> Iterator[dict[str, int]]:
    """`cluster.map_parts` where the bucket is: the session's Ray workers do not know its server."""
    worker = kind(**arguments)
    return (worker({"item": item}) for item in items)


def test_a_shard_becomes_a_file_with_the_models_labels(
    squares: Path, saved: Path, tmp_path: Path
) -> None:
    config = PredictConfig(
        checkpoint=str(saved),
        output=str(tmp_path),
        dataset=str(squares),
        top_k=3,
        cams=1,
        batch_size=5,
    )
    first, second = predict_plan.parts(config)
    predict = PartPredictor(config, str(saved), 1)
    assert predict({"item": second}) == {"images": 8, "errors": 0}
    assert not (tmp_path / first.file).exists()
    rows = {row["image"]: row for row in pq.read_table(tmp_path / second.file).to_pylist()}
    images = jpegs(squares)
    assert list(rows) == list(images)[16:]
    for image_id, found in zip(
        rows, pipeline.load(str(saved)).predict(images[name] for name in rows), strict=True
    ):
        best = found.top(3)
        assert rows[image_id]["mid"] == [label.mid for label in best]
        assert np.allclose(rows[image_id]["score"], [label.score for label in best], atol=1e-5)
        probabilities = [label.probability for label in best]
        assert np.allclose(rows[image_id]["probability"], probabilities, atol=1e-5)
    assert len(list((tmp_path / "_cams/part-000001").glob("*.png"))) == 8


def test_the_threshold_is_a_probability(squares: Path, saved: Path, tmp_path: Path) -> None:
    config = PredictConfig(
        checkpoint=str(saved), output=str(tmp_path), dataset=str(squares), top_k=0, threshold=0.5
    )
    part = predict_plan.parts(config)[1]
    PartPredictor(config, str(saved), 1)({"item": part})
    scores = [row["score"] for row in pq.read_table(tmp_path / part.file).to_pylist()]
    assert all(score >= 0 for of_image in scores for score in of_image)
    assert {len(of_image) for of_image in scores} != {8}


@pytest.mark.ray
def test_a_folder_on_two_workers_resumed(
    squares: Path, saved: Path, tmp_path: Path, ray_local: None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in jpegs(squares).items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "broken.jpg").write_bytes(b"none")
    config = PredictConfig(
        checkpoint=str(saved),
        output=str(tmp_path / "out"),
        images=str(folder),
        images_per_part=10,
        workers=2,
    )
    output = Path(config.output)
    listed = predict_plan.parts(config)
    # One part is there already, as after a kill; it must be kept.
    predict_plan.unfinished(config, "", listed)
    (output / predict_plan.PLAN).unlink()
    PartPredictor(config, str(saved), 1)({"item": listed[0]})
    before = (output / listed[0].file).stat().st_mtime_ns
    printed = predict(config, lambda: None)
    assert printed == {"images": 25, "errors": 1, "files": 3}
    assert json.loads((output / "_SUCCESS").read_text()) == printed
    assert (output / listed[0].file).stat().st_mtime_ns == before
    rows = pq.read_table(config.output).to_pylist()
    ids = format_image_ids(Dataset.open(squares).labels("test").image_ids_N)
    names = sorted(Path(row["image"]).stem for row in rows)
    assert names == sorted([*ids, "broken"])
    (bad,) = [row for row in rows if row["error"]]
    assert "not an image" in bad["error"]
    assert bad["mid"] is None
    assert predict(config, lambda: pytest.fail("nothing was left to do")) == printed


def test_from_bucket_to_bucket_resumed(
    squares: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "shares", lambda *_: (1, 0, 1))
    monkeypatch.setattr(session, "check_shared", lambda directory: None)
    monkeypatch.setattr(tasks, "map_parts", in_process)
    bucket.put("in", squares)
    bucket.put("model", write_checkpoint(tmp_path / "checkpoint", squares))
    config = PredictConfig(
        checkpoint=bucket.url("model"),
        output=bucket.url("out"),
        dataset=bucket.url("in"),
        cams=1,
        workers=1,
    )
    output = predict(config, lambda: None)
    assert output == {"images": 24, "errors": 0, "files": 2}
    found = bucket.objects("out")
    assert json.loads(found["_SUCCESS"]) == output
    assert len([name for name in found if name.startswith("_cams/part-000001/")]) == 8
    on_disk = dataclasses.replace(config, dataset=str(squares), output=str(tmp_path / "out"))
    part = predict_plan.parts(on_disk)[1]
    PartPredictor(on_disk, config.checkpoint, 1)({"item": part})
    assert found[part.file] == (tmp_path / "out" / part.file).read_bytes()
    # As after a kill: what is there stays, what is missing is done.
    bucket.remove(f"out/{part.file}", "out/_SUCCESS")
    bucket.server.asked.clear()
    assert predict(config, lambda: None) == output
    assert bucket.objects("out")[part.file] == found[part.file]
    assert not [
        path for path in bucket.server.asked if path.startswith("PUT") and "-000000" in path
    ]
    with pytest.raises(InputError, match="another --top-k"):
        predict(dataclasses.replace(config, top_k=3), lambda: None)


def test_a_url_that_cannot_be_had_is_a_row(squares: Path, saved: Path, tmp_path: Path) -> None:
    names = ("caf%C3%A9.jpg", "a%20b.jpg", "c?d=%C3%A9", "short.jpg", "noise.jpg")
    good, bad = ("café.jpg", "a b.jpg", "a%20b.jpg", "c?d=é"), names[3:]
    with serving(dict.fromkeys(names, next(iter(jpegs(squares).values())))) as web:
        web.faults = {name: 3 * [name.removesuffix(".jpg")] for name in bad}
        urls = [
            *(f"{web.url}/{name}" for name in (*good, *bad)),
            "http://no host/e.jpg",
            "http://[::1/f.jpg",
        ]
        (tmp_path / "urls.txt").write_text("\n".join(urls), encoding="utf-8")
        config = PredictConfig(
            checkpoint=str(saved), output=str(tmp_path / "out"), urls=tmp_path / "urls.txt"
        )
        (part,) = predict_plan.parts(config)
        output = PartPredictor(config, str(saved), 1)({"item": part})
    assert output == {"images": 8, "errors": 4}
    rows = pq.read_table(tmp_path / "out" / part.file).to_pylist()
    assert [row["image"] for row in rows] == urls
    errors = [row["error"] for row in rows]
    assert errors[:4] == [None] * 4
    assert all("cannot be read" in error for error in errors[4:])


def test_a_repeated_command_tries_again_what_could_not_be_read(
    squares: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "shares", lambda *_: (1, 0, 1))
    monkeypatch.setattr(session, "check_shared", lambda directory: None)
    monkeypatch.setattr(tasks, "map_parts", in_process)
    first, second, *_ = jpegs(squares).values()
    (tmp_path / "a.jpg").write_bytes(first)
    (tmp_path / "broken.jpg").write_bytes(b"none")
    (tmp_path / "urls.txt").write_text("a.jpg\nlate.jpg\nbroken.jpg")
    config = PredictConfig(
        checkpoint=str(saved), output=str(tmp_path / "out"), urls=tmp_path / "urls.txt"
    )
    assert predict(config, lambda: None) == {"images": 3, "errors": 2, "files": 1}
    before = pq.read_table(config.output).to_pylist()
    (tmp_path / "late.jpg").write_bytes(second)
    (tmp_path / "a.jpg").unlink()  # its row is there, and stays
    assert predict(config, lambda: None) == {"images": 3, "errors": 1, "files": 1}
    after = pq.read_table(config.output).to_pylist()
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1]["error"] is None
    assert predict(config, lambda: pytest.fail("nothing was left to do"))["errors"] == 1


def test_a_busy_server_is_asked_again(squares: Path, saved: Path, tmp_path: Path) -> None:
    content = next(iter(jpegs(squares).values()))
    with serving({"a.jpg": content}) as web:
        web.faults = {"a.jpg": [503]}
        (tmp_path / "urls.txt").write_text(f"{web.url}/a.jpg")
        config = PredictConfig(
            checkpoint=str(saved), output=str(tmp_path / "out"), urls=tmp_path / "urls.txt"
        )
        output = PartPredictor(config, str(saved), 1)({"item": predict_plan.parts(config)[0]})
    assert output == {"images": 1, "errors": 0}


def test_images_of_a_bucket(bucket: Bucket, squares: Path, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "below"
    folder.mkdir(parents=True)
    names = ("50% off.jpg", "b.jpg")
    for name, content in zip(names, jpegs(squares).values(), strict=False):
        (folder / name).write_bytes(content)
    (folder / "notes.txt").touch()
    bucket.put("in", folder.parent)
    config = PredictConfig(checkpoint=str(saved), output=bucket.url("out"), images=bucket.url("in"))
    (part,) = predict_plan.parts(config)
    assert part.locations == tuple(bucket.url(f"in/below/{name}") for name in names)
    output = PartPredictor(config, str(saved), 1)({"item": part})
    assert output == {"images": 2, "errors": 0}


def test_a_bucket_that_is_not_there_is_one_line(bucket: Bucket, squares: Path, saved: Path) -> None:
    config = PredictConfig(checkpoint=str(saved), output="s3://nowhere/out", dataset=str(squares))
    with pytest.raises(InputError, match=r"s3://nowhere/out/_plan.json: cannot be written"):
        predict(config, lambda: pytest.fail("nothing can be written"))


def test_a_silent_host_is_left_alone(
    squares: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def square(source: str, size: int) -> np.ndarray:
        asked.append(source)
        if "dead" in source:
            raise pixels.Unanswered(f"{pixels.UNREAD} (not fetched in 3 tries)")
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr("pipeline.inference.predict.SILENT", 3)
    monkeypatch.setattr(pixels, "square", square)
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(f"http://dead/{n}.jpg\nhttp://fine/{n}.jpg\n" for n in range(8)))
    config = PredictConfig(checkpoint=str(saved), output=str(tmp_path / "out"), urls=urls)
    (part,) = predict_plan.parts(config)
    assert PartPredictor(config, str(saved), 1)({"item": part}) == {"images": 16, "errors": 8}
    assert sum("dead" in source for source in asked) == 3
    errors = predict_plan.read_errors(f"{config.output}/{part.file}")
    assert errors[-2] == "cannot be read (dead has not answered 3 times)"
    assert predict_plan.unread(errors)  # a repeated command asks again


def test_a_deadline_leaves_the_rest_to_a_repeated_command(
    squares: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "map_parts", in_process)
    monkeypatch.setattr(session, "shares", lambda *_: (1, 0, 1))
    monkeypatch.setattr(session, "check_shared", lambda directory: None)
    clock = iter([0.0] * 6)  # the job's begin, and five images
    its = SimpleNamespace(time=lambda: next(clock, 61.0))  # other threads have their own
    monkeypatch.setattr("pipeline.inference.predict.time", its)
    config = PredictConfig(
        checkpoint=str(saved), output=str(tmp_path), dataset=str(squares), max_minutes=1
    )
    assert predict(config, lambda: None)["errors"] == 24 - 5
    errors = predict_plan.read_errors(f"{tmp_path}/part-000000.parquet")
    assert errors[5] == "cannot be read (not reached in --max-minutes)"
    again = dataclasses.replace(config, max_minutes=None)
    assert predict(again, lambda: None) == {"images": 24, "errors": 0, "files": 2}


def test_images_that_kill_their_worker_are_left_out_and_the_others_predicted(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def square(source: str, size: int) -> np.ndarray:
        if "deadly" in source:
            raise SystemExit(source)  # as a crash ends the process, whatever is caught
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(pixels, "square", square)
    urls = tmp_path / "urls.txt"
    urls.write_text("a.jpg\ndeadly.jpg\nb.jpg\ndeadly2.jpg\nc.jpg\n")
    config = PredictConfig(checkpoint=str(saved), output=str(tmp_path / "out"), urls=urls)
    (part,) = predict_plan.parts(config)
    for attempt in (1, 2, 3):
        with pytest.raises(SystemExit):
            PartPredictor(config, str(saved), 1)({"item": part, "attempt": attempt})
    about = {"classes_sha256": "abc"}
    assert _set_aside(config, about, part, "3 workers died of it") == {"images": 5, "errors": 5}
    errors = predict_plan.read_errors(f"{config.output}/{part.file}")
    assert errors == ["cannot be read (3 workers died of it)"] * 5
    with pytest.raises(SystemExit):  # repeated
        PartPredictor(config, str(saved), 1)({"item": part, "attempt": 1})
    counts = PartPredictor(config, str(saved), 1)({"item": part, "attempt": 2})
    assert counts == {"images": 5, "errors": 2}
    errors = predict_plan.read_errors(f"{config.output}/{part.file}")
    deadly = "cannot be read (it ended the process that read it)"
    assert errors == [None, deadly, None, deadly, None]
    assert [path.name for path in Path(config.output).iterdir()] == [part.file]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_part_that_is_set_aside_says_of_which_network_it_is(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threshold: float | None,
) -> None:
    def first_of(*call: Any, set_aside: Any, **_: Any) -> Iterator[dict[str, int]]:
        kind, arguments, (first, second) = call
        yield from in_process(kind, arguments, [first])
        yield set_aside(second, "3 workers died of it")

    monkeypatch.setattr(tasks, "map_parts", first_of)
    monkeypatch.setattr(session, "shares", lambda *_: (1, 0, 1))
    monkeypatch.setattr(session, "check_shared", lambda directory: None)
    saved = write_checkpoint(tmp_path / "checkpoint", squares)
    give(saved, squares, [0.0] * 8, 1.0)
    output = tmp_path / "out"
    config = PredictConfig(
        checkpoint=str(saved), output=str(output), dataset=str(squares), threshold=threshold
    )
    assert predict(config, lambda: None) == {"images": 24, "errors": 8, "files": 2}
    one, other = (pq.read_schema(path).metadata for path in sorted(output.glob("*.parquet")))
    assert one[b"classes_sha256"].decode() == Dataset.open(squares).classes.sha256
    assert (b"thresholds" in one) == (threshold is None)
    assert other == one


def test_a_host_that_answers_that_an_image_is_gone_is_not_silent(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def square(source: str, size: int) -> np.ndarray:
        number = int(Path(source).stem)
        problem = f"{pixels.UNREAD} ({number})"
        raise (pixels.Unanswered if number % 2 else InputError)(problem)

    monkeypatch.setattr("pipeline.inference.predict.SILENT", 2)
    monkeypatch.setattr(pixels, "square", square)
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(f"http://host/{n}.jpg\n" for n in range(8)))
    config = PredictConfig(checkpoint=str(saved), output=str(tmp_path / "out"), urls=urls)
    (part,) = predict_plan.parts(config)
    PartPredictor(config, str(saved), 1)({"item": part})
    errors = predict_plan.read_errors(f"{config.output}/{part.file}")
    assert errors == [f"cannot be read ({n})" for n in range(8)]
