"""The parts of a bulk prediction cover its images once, and an output holds one prediction."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.commands import PredictConfig
from pipeline.inference import predict_plan
from sharding.errors import InputError


def config(tmp_path: Path, **options: object) -> PredictConfig:
    return PredictConfig(checkpoint="c", output=str(tmp_path / "out"), **options)  # type: ignore[arg-type]


def test_a_folder_is_cut_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.PNG", "a/d.txt", "e.jpeg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    parts = predict_plan.parts(config(tmp_path, images=str(tmp_path / "in"), images_per_part=2))
    assert [[Path(path).name for path in part.locations] for part in parts] == [
        ["c.PNG", "b.jpg"],
        ["e.jpeg"],
    ]
    assert [part.file for part in parts] == ["part-000000.parquet", "part-000001.parquet"]


def test_a_folder_is_predicted_once_without_what_is_hidden(tmp_path: Path) -> None:
    folder = tmp_path / ".cache/in"
    for name in ("a/b.jpg", "._b.jpg", "__MACOSX/b.jpg", ".thumbs/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for link in ("A", "a/again", "loop"):
        (folder / link).symlink_to(folder / ("" if link == "loop" else "a"))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (part,) = predict_plan.parts(config(tmp_path, images=f"{folder}/"))
    assert part.locations == (str(folder / "a/b.jpg"),)
    with pytest.raises(InputError, match=r"b\.jpg: a file, not a folder. Fix: list files"):
        predict_plan.parts(config(tmp_path, images=str(folder / "a/b.jpg")))


def test_files_that_are_no_images_by_their_ending_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.HEIC", "c.heic", "README", ".DS_Store"):
        (tmp_path / name).touch()
    (part,) = predict_plan.parts(config(tmp_path, images=str(tmp_path)))
    assert len(part.locations) == 1
    assert "by their ending: 1 without, 2 .heic\n" in capsys.readouterr().out


def test_what_predictions_wrote_below_the_images_is_none_of_them(tmp_path: Path) -> None:
    def listed(output: str) -> list[str]:
        options = config(tmp_path, images=str(tmp_path), cams=1)
        into = dataclasses.replace(options, output=str(tmp_path / output))
        found = predict_plan.parts(into)
        predict_plan.unfinished(into, "sha", found)  # refuses another list of images than before
        return [Path(path).name for part in found for path in part.locations]

    (tmp_path / "_mine").mkdir()
    for name in ("a.jpg", "_mine/b.jpg"):
        (tmp_path / name).touch()
    assert listed("a+b/out") == ["b.jpg", "a.jpg"]
    maps = tmp_path / "a+b/out/_cams/part-000000"
    maps.mkdir(parents=True)
    (maps / "a-12345678.png").touch()
    assert listed("a+b/out") == listed("a+b/out/") == listed("other") == ["b.jpg", "a.jpg"]
    (tmp_path / "a+b/out/_plan.json").unlink()
    assert listed("a+b/out") == ["b.jpg", "a.jpg"]


def test_images_whose_names_begin_as_predictions_do_are_images(tmp_path: Path) -> None:
    """Cameras name pictures _DSC1234.JPG."""
    (tmp_path / "_x").mkdir()
    for name in ("_DSC1.jpg", "_x/b.jpg", "_plan.json", "_SUCCESS"):
        (tmp_path / name).touch()
    here = dataclasses.replace(config(tmp_path, images=str(tmp_path)), output=str(tmp_path))
    found = [Path(path).name for part in predict_plan.parts(here) for path in part.locations]
    assert found == ["_DSC1.jpg", "b.jpg"]


def test_a_finished_prediction_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").touch()
    wanted = config(tmp_path, images=str(tmp_path / "in"))
    parts = predict_plan.parts(wanted)
    assert predict_plan.unfinished(wanted, "digest", parts) == parts
    assert "finished" not in capsys.readouterr().out
    table = pa.table({"error": pa.array([None], pa.string())})
    pq.write_table(table, Path(wanted.output, parts[0].file))
    assert predict_plan.unfinished(wanted, "digest", parts) == []
    assert "is already finished; nothing was done" in capsys.readouterr().out


def test_a_list_keeps_its_order(tmp_path: Path) -> None:
    lines = ("http://b\n", "", "  http://a ", '"C d.jpg"', "'e.jpg'", "'f\"", "g's'")
    (tmp_path / "urls").write_text("\n".join(lines))
    (part,) = predict_plan.parts(config(tmp_path, urls=tmp_path / "urls"))
    assert part.locations == ("http://b", "http://a", "C d.jpg", "e.jpg", "'f\"", "g's'")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_lists_byte_order_mark_is_no_part_of_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "urls").write_text("http://b\r\nhttp://ä", encoding=encoding)
    (part,) = predict_plan.parts(config(tmp_path, urls=tmp_path / "urls"))
    assert part.locations == ("http://b", "http://ä")


def test_a_relative_path_is_of_here_or_of_the_lists_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, lists = tmp_path / "here", tmp_path / "lists"
    for file in (here / "a.jpg", lists / "a.jpg", lists / "b.jpg"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (lists / "urls").write_text("a.jpg\nb.jpg\nc.jpg\nno\0name")
    monkeypatch.chdir(here)
    (part,) = predict_plan.parts(config(tmp_path, urls=lists / "urls"))
    expected = (here / "a.jpg", lists / "b.jpg", here / "c.jpg", here / "no\0name")
    assert tuple(map(part.located, part.locations)) == tuple(map(str, expected))


def test_a_split_has_a_part_per_shard(squares: Path, tmp_path: Path) -> None:
    parts = predict_plan.parts(config(tmp_path, dataset=str(squares), split="train"))
    assert [Path(part.tar).name for part in parts] == [f"train-00000{n}.tar" for n in range(3)]


@pytest.mark.parametrize("damage", ["header", "cut-between", "cut-within", "gone"])
def test_a_damaged_tar_is_one_error_and_loses_no_image_in_silence(
    squares: Path, tmp_path: Path, damage: str
) -> None:
    copy = shutil.copytree(squares, tmp_path / "copy")
    part = predict_plan.parts(config(tmp_path, dataset=str(copy), split="train"))[1]
    assert len(list(predict_plan.images_of(part))) == part.images > 3
    with tarfile.open(part.tar) as tar:
        third = tar.getmembers()[4]
    content = bytearray(Path(part.tar).read_bytes())
    if damage == "header":
        content[third.offset : third.offset + 512] = bytes(range(256)) * 2
    elif damage != "gone":
        del content[third.offset if damage == "cut-between" else third.offset_data + 9 :]
    Path(part.tar).write_bytes(content)
    if damage == "gone":
        Path(part.tar).unlink()
    fix = rf"train-000001\.tar: .*verify --dataset {copy} --repair --images FOLDER"
    with pytest.raises(InputError, match=fix):
        list(predict_plan.images_of(part))


def test_a_list_of_the_same_words_elsewhere_is_of_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
        (tmp_path / name / "urls").write_text("1.jpg")
    monkeypatch.chdir(tmp_path / "a")
    first = config(tmp_path, urls=Path("urls"))
    predict_plan.unfinished(first, "m", predict_plan.parts(first))
    predict_plan.unfinished(first, "m", predict_plan.parts(first))
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(InputError, match="another folder of the listed paths"):
        predict_plan.unfinished(first, "m", predict_plan.parts(first))


def test_images_that_come_later_or_go_are_those_of_the_list(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("1.jpg")
    first = config(tmp_path, urls=tmp_path / "urls")
    for there in (False, True, False):  # a share that is mounted late, and unmounted
        if there:
            (tmp_path / "1.jpg").touch()
        else:
            (tmp_path / "1.jpg").unlink(missing_ok=True)
        predict_plan.unfinished(first, "m", predict_plan.parts(first))
    assert json.loads((tmp_path / "out" / predict_plan.PLAN).read_text())["folder"] == str(tmp_path)


def test_a_list_beside_its_images_is_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "urls").write_text("0.jpg\n1.jpg")
    first = config(tmp_path, urls=tmp_path / "urls")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        predict_plan.unfinished(first, "m", predict_plan.parts(first))
    plan = tmp_path / "out" / predict_plan.PLAN
    of_0_2_0 = json.loads(plan.read_text())
    assert of_0_2_0.pop("folder") == str(tmp_path)
    plan.write_text(json.dumps(of_0_2_0))
    predict_plan.unfinished(first, "m", predict_plan.parts(first))


def test_finished_parts_are_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("\n".join("abcde"))
    chosen = config(tmp_path, urls=tmp_path / "urls", images_per_part=2)
    parts = predict_plan.parts(chosen)
    assert predict_plan.unfinished(chosen, "m", parts) == parts
    for part, error in ((parts[1], None), (parts[2], "cannot be read (HTTP status 503)")):
        table = pa.table({"error": pa.array([error, "not an image"], pa.string())})
        pq.write_table(table, tmp_path / "out" / part.file)
    faster = dataclasses.replace(chosen, batch_size=1, workers=4, wait_for_workers=5.0)
    assert predict_plan.unfinished(faster, "m", parts) == [parts[0], parts[2]]


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [({"top_k": 3}, "m", "--top-k"), ({}, "other", "model")],
)
def test_an_output_of_another_prediction_is_refused(
    tmp_path: Path, changes: dict[str, int], model: str, message: str
) -> None:
    (tmp_path / "urls").write_text("a")
    first = config(tmp_path, urls=tmp_path / "urls")
    predict_plan.unfinished(first, "m", predict_plan.parts(first))
    second = dataclasses.replace(first, **changes)
    with pytest.raises(InputError, match=f"another {message}"):
        predict_plan.unfinished(second, model, predict_plan.parts(second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "what should be predicted"),
        ({"images": "a", "urls": Path("b")}, "what should be predicted"),
        ({"images": "a", "threshold": 1.5}, r"threshold is 1\.5.*in \[0, 1\)"),
        ({"images": "a", "top_k": -1}, "top_k is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **options)


def test_nothing_to_predict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        predict_plan.parts(config(tmp_path, images=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="no list of URLs"):
        predict_plan.parts(config(tmp_path, urls=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        predict_plan.parts(config(tmp_path, images=str(tmp_path / "empty")))
