"""Every job that a page names runs on small data, in this process in place of Ray's.

Trainings are in `tests/test_documented_trainings.py`, the tutorial's commands, with Ray, in
`tests/jobs/test_tutorial.py`; what cannot run here is listed with its reason, and goes to its
program's parser in `tests/test_documented_commands.py`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline.tracking import client
from pipeline.training.epoch import run_epoch
from sharding.manifest import Dataset
from tests.support.buckets import Bucket
from tests.support.foreign import write_coco, write_csv
from tests.support.jobs import in_process, run
from tests.support.models import write_checkpoint
from tests.support.training import begun, save_run, worker_for
from tests.test_documented_commands import COMMANDS, JOBS, REPOSITORY

NOT_RUN = {
    r"make ": "makes the environment and runs what is tested elsewhere",
    r"(export|\.) ": "sets the shell up",
    r"ray (up|down|dashboard|exec|get-auth-token|job (logs|status|stop))": "needs a cluster",
    r"(docker|kubectl|sky|sbatch) ": "needs that program and its machines; tests/deploy",
    r"((\S*/)?mlflow|curl|printf) ": "a server; tests/pipeline/inference/test_mlflow_model.py",
    r"python -m benchmarks\.": "tests/test_benchmarks.py",
    r".*(train_openimages\.py|openimages-boostlu train) ": "tests/test_documented_trainings.py",
}
SMALLER = {
    "--train 2000 --validation 200 --test 100 --classes 40": (
        "--train 20 --validation 2 --test 2 --classes 5 --workers 1"
    ),
}


def reason(page: str, command: str) -> str | None:
    """Why a documented command is not run here; None of those that are."""
    if page == "tutorial.md":
        return "tests/jobs/test_tutorial.py"
    return next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)


TO_RUN = sorted({command for page, command in COMMANDS if reason(page, command) is None})


def test_every_job_is_run_and_every_reason_is_needed() -> None:
    text = "\n".join(TO_RUN)
    assert {
        script for script, job in JOBS.items() if not re.search(rf"{script}|boostlu {job} ", text)
    } == {"train_openimages.py"}
    left = [command for page, command in COMMANDS if reason(page, command) is not None]
    assert [what for what in NOT_RUN if not any(re.match(what, each) for each in left)] == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Make what the commands name: dumps, collections, datasets, runs."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        in_process(patch)
        sizes = "--train 48 --validation 12 --test 12 --classes 6 --side 48 --workers 1"
        assert not run(f"make-demo --output dump {sizes}")
        max(Path("dump/images/train").iterdir()).write_bytes(b"broken")  # to be set aside
        shard = "shard --annotations dump --images dump/images --images-per-shard 8"
        assert not run(f"{shard} --output data/dataset")
        Path("data/openimages").symlink_to(root / "dump")
        Path("data/dump").symlink_to(root / "dump")
        Path("data/jpegs").symlink_to(root / "dump/images")
        shutil.copytree("dump/2017_11", "data/openimages-v4/2018_04")
        write_coco(root / "data/coco")
        write_csv(
            root / "data/pets",
            ["image,labels,split"]
            + [f"{n}.jpg,{'cat' if n % 2 else 'dog'},{split}" for n, split in enumerate(_PETS)],
            [f"{n}.jpg" for n in range(len(_PETS))],
        )
        assert not run("import --format coco --source data/coco --output data/coco-dataset")
        assert not run("import --format csv --source data/pets --output data/pets-dataset")
        shutil.copy(empty_store, "mlflow.db")
        for name in ("coco-llr", "pets"):
            collection = root / f"data/{name.partition('-')[0]}-dataset"
            write_checkpoint(root / "runs" / name, collection)
        train(root, "first", "ll-r")
        train(root, "cnn-rnn", "cnn-rnn", "hidden=8", "embedding=4")
    lines = [str(path) for path in sorted((root / "dump/images/test").glob("*.jpg"))[:2]]
    (root / "urls.txt").write_text("\n".join(lines))
    (root / "takedown.txt").write_text(Path(lines[0]).stem)
    (root / "machine/2017_11/train").mkdir(parents=True)
    (root / "reviewed-first-epoch-020-train.csv").write_text(label(root, "verification,{},1"))
    table = root / "machine/2017_11/train/annotations-machine.csv"
    table.write_text(label(root, "machine,{},0.7"))
    shutil.make_archive(str(root / "annotations_machine_2017_11"), "gztar", root / "machine")
    return root


_PETS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def train(root: Path, name: str, method: str, *options: str) -> None:
    """Train a run for two epochs; its directory is its checkpoint, too."""
    place = {"storage": str(root / "runs"), "name": name, "candidates_per_epoch": 20}
    worker = begun(worker_for(root / "data/dataset", method, *options, batch=16, **place))
    run_epoch(worker, 1)
    run_epoch(worker, 2)
    save_run(worker, root / "runs" / name)


def label(root: Path, of_class: str) -> str:
    """Write a table of one label: of the first training image, for the first class."""
    mid = Dataset.open(root / "data/dataset").classes.mids[0]
    image = min((root / "dump/images/train").iterdir()).stem
    return f"ImageID,Source,LabelName,Confidence\n{image},{of_class.format(mid)}\n"


def job_of(command: str) -> str:
    """Turn a documented command, if through Ray, into a job's name and its options."""
    _, found, rest = re.split(r"^(?:.*?(\w+\.py)(?: --)?|openimages-boostlu) ", command, maxsplit=1)
    return f"{JOBS[found]} {rest}" if found else rest


@pytest.mark.parametrize("command", TO_RUN)
def test_it_runs(
    command: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    here = shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    in_process(monkeypatch)
    job = filled(job_of(command), here)
    if "s3://" in job:
        bucket: Bucket = request.getfixturevalue("bucket")
        bucket.put("dataset", here / "data/dataset")
        job = job.replace("s3://bucket/", bucket.url(""))
    output = re.search(r"--output (\S+)", job)
    if output and "://" not in output[1]:
        shutil.rmtree(here / output[1], ignore_errors=True)
    is_check = job.startswith("check-cluster")  # the file as it comes lacks the user's own values
    is_study = job.startswith("study")  # its trainings are those of tests/pipeline/study
    if is_study:
        job = f"{job.removesuffix(' --dry-run')} --dry-run"
    status = run(job)
    shown = capsys.readouterr()
    assert status == (2 if is_check else 0), shown.err
    assert not is_check or "is not set. Fix: put your own value" in shown.err
    if output and "://" not in output[1]:
        assert (here / output[1]).exists() != is_study
    if is_study:
        assert re.search(r"\d+ rows?, \d+ trainings?, 0 of them finished", shown.out)
    if "--confidences" in job:
        assert list((here / "data/dataset/confidences").glob("*/train.parquet"))
    if job.startswith("evaluate"):
        assert re.search(r"BoostLU on|score", shown.out)


_RUNS = "NAME|full|audit|llr-boostlu|coco-ablation-3|teacher|first"


def filled(job: str, here: Path) -> str:
    """Put what is there in the place of what a page leaves to its reader."""
    dataset = Dataset.open(here / "data/dataset")
    image = min((here / "dump/images/train").iterdir()).stem
    places = {
        r"/data/": "data/",
        r"\bDATASET\b|\bDIR\b|(?<= )dataset\b|demo/dataset\b": "data/dataset",
        r"demo/dump\b": "dump",
        rf"demo/runs/demo|(?:data/)?runs/(?:{_RUNS})": "runs/first",
        r"bbox_labels_600_hierarchy.json": "hierarchy.json",
        r"\bDog\b": shlex.quote(dataset.classes.names[0]),
        r"0a1b2c3d4e5f6071": image,
        r"ray_cluster.yaml": str(REPOSITORY / "ray_cluster.yaml"),
        **{re.escape(long): short for long, short in SMALLER.items()},
    }
    for what, there in places.items():
        job = re.sub(what, there, job)
    if "hierarchy.json" in job:
        mids = dataset.classes.mids
        parts = {"LabelName": mids[0], "Subcategory": [{"LabelName": mids[1]}]}
        (here / "hierarchy.json").write_text(json.dumps(parts))
    of_run = "--checkpoint runs/first --dataset data/dataset"
    if "--confidences teacher" in job:
        assert not run(f"predict {of_run} --split train --output teacher")
    if "models:/" in job:
        assert not run(f"evaluate {of_run} --attribution 0 --register shapes")
    if "--pool predictions" in job:
        everything = "--split validation --threshold 0 --top-k 0"
        assert not run(f"predict {of_run} {everything} --output predictions")
    if evaluated := re.search("RUN_ID|MLFLOW_RUN", job):
        is_plan, is_audit = "--plan" in job, "--scores" in job
        split = "validation" if is_plan else "train" if is_audit else "test"
        assert not run(f"evaluate {of_run} --split {split} --attribution 0")
        job = job.replace(evaluated[0], the_run())
    return job


def the_run() -> str:
    store = client.mlflow_client()
    experiments = [each.experiment_id for each in store.search_experiments()]
    (found,) = store.search_runs(experiments)
    return str(found.info.run_id)
