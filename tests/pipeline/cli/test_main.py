"""One program runs every job by name, and shows what there is at once."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline
from pipeline.cli import dataset_jobs, main
from pipeline.config import presets
from tests.support.home import SCRIPTS

JOBS = sorted(main._JOBS)
HEAVY = {"tyro", "numpy", "torch", "cv2", "ray", "mlflow", "nvidia"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_terminal_without_a_letter_shows_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    show = SimpleNamespace(
        run_verify=lambda arguments, program: print("Gr\u00fcn 31.4", flush=True)
    )
    monkeypatch.setitem(sys.modules, "pipeline.cli.dataset_jobs", show)
    main.run("verify", [])
    assert screen.getvalue() == b"Gr?n 31.4\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate --checkpoint runs/demo --dataset .",
        "evaluate --checkpoint . --dataset runs/demo",
        "predict --checkpoint runs/demo --images . --output out",
        "predict --checkpoint . --images runs/demo --output out",
        "predict --checkpoint . --dataset runs/demo --output out",
        "export --checkpoint runs/demo --output out",
        "candidates --run . --dataset runs/demo",
    ],
)
def test_a_path_that_is_not_there_is_told_before_anything_is_imported(
    arguments: str, tmp_path: Path
) -> None:
    slow = HEAVY - {"tyro", "numpy"}
    program = (
        f"import sys\nfrom pipeline.cli import main\ntry:\n    main.main({arguments.split()})\n"
        f"finally:\n    print({slow} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    absent = tmp_path / "runs/demo"
    assert f"{absent}: no such directory. Fix: check the path" in done.stderr
    assert done.stdout == "set()\n"


def test_every_script_runs_a_job_of_its_own() -> None:
    called = [re.findall(r'run\("([a-z-]+)"\)', script.read_text()) for script in SCRIPTS]
    assert sorted(name for names in called for name in names) == JOBS


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_list_of_jobs_needs_no_library(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"""
import sys
from pipeline.cli.main import main
main({arguments})
assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(re.search(rf"(?m)^  {job} ", shown.stdout) for job in JOBS)


def test_the_module_says_its_version() -> None:
    assert run("--version").stdout == f"openimages-boostlu {pipeline.__version__}\n"
    assert re.match(r"\d+\.\d+", pipeline.__version__)


def test_a_job_that_there_is_not_is_one_line_with_the_nearest() -> None:
    done = run("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no job 'trian'. Fix: did you mean train? ")


@pytest.mark.parametrize("job", JOBS)
def test_the_help_of_a_job_names_its_command_and_fits_a_terminal(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main.main([job, "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"$ openimages-boostlu {job} " in shown
    _usage, *lines = shown.splitlines()  # tyro's own, which a terminal wraps
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [("ver", ["verify"]), ("train --met", ["--method", "--method-options"]), ("train tour/", [])],
)
def test_a_shell_completes_jobs_and_options(
    words: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main(["--completion"])
    program = tmp_path / "openimages-boostlu"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline "$@"\n')
    program.chmod(0o755)
    script = capsys.readouterr().out + (
        f"COMP_WORDS=(openimages-boostlu {words}); COMP_CWORD={len(words.split())}\n"
        '_openimages_boostlu; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert sorted(set(done.stdout.split())) == expected, done.stderr


def test_rows_fit_a_terminal_and_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"  {'train':<12} {'1,562 positive labels, ' * 5}", f"  next         run {'x' * 90}"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    dataset_jobs._show("\n".join(rows))
    first, second, command = capsys.readouterr().out.splitlines()
    assert max(len(first), len(second)) <= 80
    assert second.startswith(" " * 15 + "labels, 1,562 ")
    assert command == rows[1]


@pytest.mark.parametrize(
    ("what", "known"), [("presets", presets.PRESETS), ("methods", ("ll-r", "an"))]
)
def test_what_can_be_chosen_is_listed(
    what: str, known: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    main.main(["--list", what])
    shown = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in shown) for name in known)
    assert max(map(len, shown)) <= 80


def test_a_configuration_is_printed_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["train", "--preset", "coco", "--method", "p-asl", "--print-config"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_backbones_are_those_that_can_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["train", "--list", "backbones"])
    assert {"resnet50", "convnext_tiny"} <= set(capsys.readouterr().out.splitlines())


def test_the_script_of_a_job_is_the_job(tmp_path: Path) -> None:
    (script,) = (path for path in SCRIPTS if path.name == "verify_dataset.py")
    command = [sys.executable, str(script), "--dataset", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    ours = run("verify", "--dataset", str(tmp_path))
    assert (done.returncode, done.stderr) == (ours.returncode, ours.stderr)
    assert "dataset.json" in done.stderr
