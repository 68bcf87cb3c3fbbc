"""A wheel holds everything the jobs need, and an editable install stays a plain path entry."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.home import SCRIPTS
from tests.test_release import VERSION

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("pipeline", "sharding")

# Neither the checkout nor its entry in site-packages is on the path of `python -I -S`.
RUN = """
import runpy, sys
target, installed, script, *arguments = sys.argv[1:]
sys.path = [target, *sys.path, installed]
import pipeline, sharding
for package in (pipeline, sharding):
    assert package.__file__.startswith(target), package.__file__
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""
EDITABLE = """
import sys, warnings
from setuptools import build_meta
from setuptools.warnings import SetuptoolsDeprecationWarning
warnings.simplefilter("error", SetuptoolsDeprecationWarning)
build_meta.build_editable(sys.argv[1])
"""
IMPORT_ALL = """
import importlib, pkgutil
import pipeline, sharding
for package in (pipeline, sharding):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
"""
HELPS = """
import os, runpy, sys
for script in sys.argv[1:]:
    os.chdir(os.path.dirname(script))
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, (script, ended.code)
    print("-- end")
"""


def sources() -> set[str]:
    """Names of all files of the packages."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the files beside them, where building leaves its own folders."""
    folder = tmp_path_factory.mktemp("project")
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    for package in PACKAGES:
        copy_tree(REPOSITORY / package, folder / package)
    return folder


def copy_tree(path: Path, copy: Path) -> None:
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))


def pip(*arguments: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    subprocess.run([sys.executable, "-m", "pip", *arguments, *options], check=True)


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(project))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("target")
    pip("install", "--target", str(folder), str(wheel))
    return folder


def run(target: Path, directory: Path, script: Path, *arguments: str) -> str:
    """Run a script in a directory with the installed wheel; return what it printed."""
    installed = sysconfig.get_paths()["purelib"]
    command = [sys.executable, "-I", "-S", "-c", RUN, str(target), installed, str(script)]
    done = subprocess.run(
        [*command, *arguments], cwd=directory, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if ".dist-info/" not in name} == sources()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_says_its_version(target: Path, tmp_path: Path) -> None:
    script = tmp_path / "version.py"
    script.write_text("import pipeline\nprint(pipeline.__version__)\n")
    assert run(target, tmp_path, script).strip() == VERSION


def test_every_module_can_be_imported_from_it(target: Path, tmp_path: Path) -> None:
    script = tmp_path / "import_all.py"
    script.write_text(IMPORT_ALL)
    run(target, tmp_path, script)


def test_every_job_runs_with_it_from_an_empty_directory(target: Path, tmp_path: Path) -> None:
    (tmp_path / "helps.py").write_text(HELPS)
    alone = []
    for script in SCRIPTS:
        (tmp_path / script.stem).mkdir()
        alone.append(shutil.copy(script, tmp_path / script.stem))
    printed = run(target, tmp_path, tmp_path / "helps.py", *alone)
    for script, output in zip(SCRIPTS, printed.split("-- end\n"), strict=False):
        assert script.name in output


def test_an_editable_install_of_what_a_cluster_mounts_is_a_path_entry(tmp_path: Path) -> None:
    mounts = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())["file_mounts"]
    project = tmp_path / "openimages"
    project.mkdir()
    for there, here in mounts.items():
        if not there.startswith("~/openimages/"):
            continue
        path, copy = REPOSITORY / here, project / Path(there).relative_to("~/openimages")
        (copy_tree if path.is_dir() else shutil.copy)(path, copy)
    subprocess.run([sys.executable, "-c", EDITABLE, str(tmp_path)], cwd=project, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".dist-info/" not in name)
        assert Path(name).suffix == ".pth"
        assert archive.read(name).decode().strip() == str(project)
