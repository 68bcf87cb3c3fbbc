"""The Dockerfile's steps do what they say, run one by one in an empty directory.

`IMAGE_BUILDER=docker` (or podman, buildah) builds the image as well.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "deploy/Dockerfile"
IGNORED = (REPOSITORY / "deploy/Dockerfile.dockerignore").read_text().splitlines()
HOME = "/opt/openimages"
BUILDER = os.environ.get("IMAGE_BUILDER", "")


def steps() -> list[tuple[str, str]]:
    """Instruction and argument of every step, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", "")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line]


STEPS = steps()


def arguments(instruction: str) -> list[str]:
    return [argument for name, argument in STEPS if name == instruction]


def run_step(start: str) -> str:
    (only,) = [argument for argument in arguments("RUN") if argument.startswith(start)]
    return only


def copied(directory: Path, until: str = "") -> None:
    """Do the COPY steps, those before a RUN step that has `until` in it."""
    for name, argument in STEPS:
        if until and name == "RUN" and until in argument:
            return
        if name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                origin, goal = REPOSITORY / source, directory / target
                if origin.is_dir():
                    shutil.copytree(origin, goal, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(origin, goal)


def run_in(directory: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=directory,
        env={**os.environ, "PATH": f"{directory}/bin:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )


def test_the_base_is_one_version_and_the_user_is_not_root() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base)
    assert arguments("USER") == ["1000"]  # a number, which Kubernetes can check
    assert [name for name, _ in STEPS].index("USER") > STEPS.index(("COPY", "jobs jobs"))


def test_the_manifest_for_kubernetes_names_files_of_the_image() -> None:
    manifest = (REPOSITORY / "deploy/kuberay/rayjob.yaml").read_text()
    assert arguments("WORKDIR")[0] == HOME
    assert set(re.findall(r"/opt/[\w./]+", manifest)) == {
        f"{HOME}/jobs/",
        f"{HOME}/jobs/train_openimages.py",
    }


def test_what_is_copied_is_in_the_repository_and_sent_to_the_builder() -> None:
    sources = {word for argument in arguments("COPY") for word in argument.split()[:-1]}
    assert {source for source in sources if not (REPOSITORY / source).exists()} == set()
    assert {f"!{source}" for source in sources} | {"**", "**/__pycache__"} == set(IGNORED)


@pytest.mark.parametrize(("machine", "status"), [("x86_64", 0), ("aarch64", 1)])
def test_another_processor_is_refused_in_one_line(
    tmp_path: Path, machine: str, status: int
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tmp_path / "bin/uname").chmod(0o755)
    done = run_in(tmp_path, run_step("["))
    assert done.returncode == status
    assert done.stderr.count("\n") == status
    assert ("Fix: build with --platform linux/amd64" in done.stderr) is bool(status)


def test_pip_finds_the_project_in_what_is_copied_before_it_is_called(tmp_path: Path) -> None:
    first, second = (
        argument for argument in arguments("RUN") if '".[' in argument or "-edit" in argument
    )
    copied(tmp_path, until='".[')
    pip = shlex.split(first.rpartition("&&")[2])
    assert pip[:2] == ["pip", "install"]
    assert pip[pip.index("--constraint") + 1] == "requirements.lock"
    for command in (pip, shlex.split(second)):
        dry = [sys.executable, "-m", *command, "--dry-run", "--no-deps", "--no-index"]
        done = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "openimages-boostlu" in done.stdout


@functools.cache
def installed() -> dict[str, set[str]]:
    """Follow the requirements from the project with the image's extras, as pip does.

    Names of packages, each with the extras that are asked of it.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"\[([\w,]+)\]", run_step("pip install --constraint"))[0].split(",")
    parts = (project["dependencies"], *(project["optional-dependencies"][e] for e in extras))
    todo = [Requirement(line) for part in parts for line in part]
    done: dict[str, set[str]] = {}
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if name in done and wanted.extras <= done[name]:
            continue
        done.setdefault(name, set()).update(wanted.extras)
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            choices = [{"extra": extra} for extra in (*done[name], "")]
            if needed.marker is None or any(map(needed.marker.evaluate, choices)):
                todo.append(needed)
    return done


def test_the_lock_has_a_version_of_everything_that_is_installed() -> None:
    packages = installed().keys()
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = {canonicalize_name(name) for name in re.findall(r"(?m)^([\w.-]+)==", lock)}
    assert packages <= locked
    assert {"torch", "ray", "timm", "onnx"} <= packages
    assert not packages & {"pytest", "mypy", "ruff", "moto", "mkdocs", "hypothesis"}


def test_the_size_of_the_image_is_that_of_its_packages() -> None:
    """Add up the files that pip notes for each package, and Python's caches of them."""
    page = (REPOSITORY / "docs/deploy.md").read_text()
    stated = re.search(r"(\d+) of them,\s+([\d.]+) GB", page)
    assert stated is not None
    paths = (file.locate() for name in installed() for file in metadata.files(name) or ())
    size = sum(Path(str(path)).stat().st_size for path in paths if Path(str(path)).exists())
    assert int(stated[1]) == len(installed())
    assert float(stated[2]) == pytest.approx(size / 1e9, abs=0.25)


def test_the_health_check_asks_every_job_for_its_help(tmp_path: Path) -> None:
    copied(tmp_path)
    write = run_step("echo").replace(HOME, str(tmp_path)).replace("/usr/local/bin", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(
        f'#!/bin/sh\necho "$@" >> called\nexec {sys.executable} "$@"\n'
    )
    (tmp_path / "bin/python").chmod(0o755)
    done = run_in(tmp_path, write, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    jobs = sorted(path.name for path in REPOSITORY.glob("jobs/*.py"))
    assert (tmp_path / "called").read_text().splitlines() == [
        f"{tmp_path}/jobs/{job} --help" for job in jobs
    ]
    (tmp_path / "jobs" / jobs[0]).write_text("raise SystemExit(1)")
    assert run_in(tmp_path, f"sh {tmp_path}/check-jobs", PYTHONPATH=str(tmp_path)).returncode == 1
    assert arguments("HEALTHCHECK")[0].endswith('CMD ["sh", "/usr/local/bin/check-jobs"]')


@pytest.mark.skipif(not BUILDER, reason="IMAGE_BUILDER names no docker, podman or buildah")
@pytest.mark.timeout(7200)
def test_the_image_builds() -> None:
    build = ["build", "--file", str(DOCKERFILE), "--tag", "openimages-boostlu:test", "."]
    subprocess.run([BUILDER, *build], cwd=REPOSITORY, check=True)
