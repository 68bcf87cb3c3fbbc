"""The cut between the packages holds: who may import what (docs: design, rooms)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted([*REPOSITORY.glob("sharding/**/*.py"), *REPOSITORY.glob("pipeline/**/*.py")])
FROM_SHARDING = {
    "labels",
    "classes",
    "manifest",
    "errors",
    "atomic",
    "progress",
    "structured",
    "locking",
    "scratch",
}

RAY_TRAIN = {f"pipeline/{name}.py" for name in ("train", "trainloop", "bestcheckpoint")}
# Runs, where they are, models, and the file that MLflow itself executes to serve one.
MLFLOW = {
    f"pipeline/{name}.py"
    for name in (
        "tracking",
        "tracker",
        "trackingstore",
        "loggedmodel",
        "modelfiles",
        "registry",
        "served",
    )
}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_heavy_libraries_stay_in_their_module(path: Path) -> None:
    allowed = {
        "torch": not name_of(path).startswith("sharding/"),
        "torchvision": name_of(path) == "pipeline/backbones.py",
        "timm": name_of(path) == "pipeline/backbones.py",
        "mlflow": name_of(path) in MLFLOW,
        "ray": name_of(path) in {"pipeline/cluster.py", *RAY_TRAIN},
        "ray.train": name_of(path) in RAY_TRAIN,
        "nvidia.dali": name_of(path) == "pipeline/graph.py",
        "jobs": False,
    }
    broken = [package for package, may in allowed.items() if uses(path, package) and not may]
    assert broken == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sharding_stands_alone_and_pipeline_takes_little_of_it(path: Path) -> None:
    if name_of(path).startswith("sharding/"):
        assert not uses(path, "pipeline")
        return
    taken = {name.split(".")[1] for name in imports(path) if name.startswith("sharding.")}
    assert taken <= FROM_SHARDING


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("jobs/*.py")), ids=name_of)
def test_jobs_are_thin(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A class of a job would reach workers by value, from __main__: only options may live here.
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert all(node.decorator_list for node in classes), "only dataclasses of options"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
