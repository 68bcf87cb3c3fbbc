"""The architecture holds: layers of folders, their sizes, and who may import heavy libraries."""

from __future__ import annotations

import ast
import functools
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted([*REPOSITORY.glob("sharding/**/*.py"), *REPOSITORY.glob("pipeline/**/*.py")])
JOBS = sorted(REPOSITORY.glob("jobs/*.py"))

# From the bottom up. A folder imports from lower lines only; folders of one line do not know one
# another. Modules at the root of `sharding` are named one by one.
LAYERS = (
    {"sharding.layout", "sharding.log"},
    {"sharding.errors", "sharding.progress"},
    {"sharding.image_ids"},
    {"sharding.storage"},
    {"sharding.jpeg", "sharding.thumbnails"},
    {"sharding.labels", "sharding.classes", "sharding.decode", "sharding.manifest_parts"},
    {"sharding.manifest", "sharding.confidences"},
    {"sharding.openimages", "sharding.synthetic"},
    {"sharding.sources"},
    {"sharding.shards"},
    {"sharding.dataset"},
    {"sharding.maintenance"},
    {"sharding.commands"},
    {"sharding.importers"},
    {"pipeline.tables"},
    {"pipeline.config", "pipeline.storage", "pipeline.ranks", "pipeline.tracking"},
    {"pipeline.models", "pipeline.data"},
    {"pipeline.methods", "pipeline.cluster"},
    {"pipeline.inference"},
    {"pipeline.evaluation"},
    {"pipeline.audit"},
    {"pipeline.training"},
    {"pipeline.study"},
    {"pipeline.cli"},
    {"pipeline", "pipeline.__main__"},  # its lazy `load`
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# What pipeline takes from sharding: what training may read, and what both need to write files.
SHARED = {
    f"sharding.{name}"
    for name in (
        "labels",
        "confidences",
        "classes",
        "manifest",
        "layout",
        "errors",
        "progress",
        "log",
        "image_ids",
        "storage",
        "decode",
        "jpeg",
        "thumbnails",
    )
}
MOST_MODULES = 13
MOST_LINES = 320
STILL_LONG: dict[str, int] = {}

HEAVY = {
    "torchvision": {"pipeline/models/backbones.py"},
    "timm": {"pipeline/models/backbones.py"},
    "mlflow": {
        *(f"pipeline/tracking/{name}.py" for name in ("client", "errors", "registry", "runs")),
        "pipeline/tracking/writer.py",
        "pipeline/tracking/system_metrics.py",
        "pipeline/inference/mlflow_model.py",
        "pipeline/inference/pyfunc.py",  # MLflow itself executes it to serve a model
    },
    "ray": {
        *(f"pipeline/cluster/{name}.py" for name in ("session", "tasks", "trials", "fence")),
        *(f"pipeline/cluster/{name}.py" for name in ("checkpoints", "elastic", "scaling")),
        *(f"pipeline/training/{name}.py" for name in ("train", "train_loop")),
    },
    "ray.train": {
        *(f"pipeline/cluster/{name}.py" for name in ("checkpoints", "elastic", "fence")),
        *(f"pipeline/training/{name}.py" for name in ("train", "train_loop")),
    },
    "nvidia.dali": {"pipeline/data/dali.py"},
    "jobs": set(),
}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of everything a file imports, at any depth."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def room(module: str) -> str:
    """The folder of a module, or the module itself at a package's root."""
    return ".".join(module.split(".")[:2])


def own_imports(path: Path) -> set[str]:
    # The packages themselves hold no code: whoever imports one wants to know where it lies.
    return {name for name in imports(path) if name in MODULES and "." in name}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    own = room(module_of(path))
    upward = [
        name for name in own_imports(path) if room(name) != own and RANK[room(name)] >= RANK[own]
    ]
    assert upward == []


def test_every_room_has_a_layer_and_every_layer_a_room() -> None:
    rooms = {room(module) for module in MODULES} - {"sharding"}
    assert rooms == set(RANK)


@pytest.mark.parametrize("level", ["module", "room"])
def test_no_import_is_a_circle(level: str) -> None:
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for name in own_imports(path):
            pair = (module, name) if level == "module" else (room(module), room(name))
            # The faces re-export what their folder holds, and a lazy `load` closes no circle.
            if pair[0] != pair[1] and MODULES[module].name != "__init__.py":
                graph[pair[0]].add(pair[1])
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_heavy_libraries_stay_in_their_module(path: Path) -> None:
    used = {
        library
        for library, name in itertools.product(HEAVY, imports(path))
        if name == library or name.startswith(f"{library}.")
    }
    assert {library for library in used if name_of(path) not in HEAVY[library]} == set()
    if name_of(path).startswith("sharding/"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "ray", "mlflow"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_pipeline_takes_little_of_sharding_and_sharding_nothing_of_it(path: Path) -> None:
    taken = {room(name) for name in own_imports(path)}
    if name_of(path).startswith("sharding/"):
        assert not any(name.startswith("pipeline") for name in taken)
    elif not name_of(path).startswith("pipeline/cli/"):  # runs the jobs of both
        assert {name for name in taken if name.startswith("sharding")} <= SHARED


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_and_fits_an_evening(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= STILL_LONG.get(name_of(path), MOST_LINES)


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name_of)
def test_a_folder_is_taken_in_at_a_glance(folder: Path) -> None:
    assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= MOST_MODULES


@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_jobs_are_thin(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A class of a job would reach workers by value, from __main__.
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


HELPS = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, (script, ended.code)
    heavy = {"torch", "cv2", "ray", "mlflow", "nvidia", "pyarrow", "pandas"} & set(sys.modules)
    assert not heavy, (script, heavy)
"""


def test_help_needs_neither_torch_nor_opencv_nor_ray() -> None:
    command = [sys.executable, "-c", HELPS, *map(str, JOBS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
