import errno
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sharding import errors
from sharding.errors import InputError, MachineError, one_line_errors, unknown
from sharding.layout import MANIFEST_FILE
from sharding.storage.files import write_json


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("bad"), "bad"),
        (InputError("bad", file="a.csv"), "a.csv: bad"),
        (InputError("bad", file="a.csv", row=7), "a.csv, row 7: bad"),
        (InputError("bad", row=7), "row 7: bad"),
        (InputError("bad", file="a.csv", row=7, fix="mend it"), "a.csv, row 7: bad. Fix: mend it"),
    ],
)
def test_an_error_is_one_line_that_names_file_row_and_fix(error, line):
    assert str(error) == line


def test_an_error_keeps_its_fields_across_processes():
    error = pickle.loads(pickle.dumps(InputError("bad", file="a.csv", row=7, fix="mend it")))
    assert (error.problem, error.file, error.row, error.fix) == ("bad", "a.csv", 7, "mend it")


def test_what_a_machine_lacks_asks_a_scheduler_to_repeat_the_command(capsys):
    error = pickle.loads(pickle.dumps(MachineError("no room", file="/tmp", fix="make some")))
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == 75
    assert capsys.readouterr().err == "error: /tmp: no room. Fix: make some\n"


def test_a_job_ends_with_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise InputError("bad", file="a.csv", fix="mend it")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.csv: bad. Fix: mend it\n"


def test_the_cause_inside_a_wrapper_is_what_is_printed(capsys):
    class Wrapped(InputError):
        cause = InputError("bad", file="a.csv")

    with pytest.raises(SystemExit), one_line_errors():
        raise Wrapped("task failed\nwith a long traceback")
    assert capsys.readouterr().err == "error: a.csv: bad\n"


def test_the_nearest_word_is_named_in_any_case():
    assert "did you mean Cat? There are Lion, Cat" in str(unknown("class", "cta", ["Lion", "Cat"]))
    assert "choose one of Lion, Cat" in str(unknown("class", "zzz", ["Lion", "Cat"]))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), one_line_errors():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")


def test_a_read_only_file_system_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise OSError(errno.EROFS, "Read-only file system", "/mnt/set/labels/v4/wanted.txt")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: /mnt/set/labels/v4/wanted.txt: Read-only file system. Fix: ")


def test_a_place_that_cannot_be_is_one_line_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()

    def refused(write: Callable[[Path], object], place: str) -> str:
        with pytest.raises(SystemExit) as caught, one_line_errors():
            write(tmp_path / place)
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.replace(f"{tmp_path}/", "")

    def write(path: Path) -> None:
        write_json(path, {})

    fix = "Fix: choose another place: a file is where a directory has to be"
    assert refused(write, "folder") == (
        "error: folder: Is a directory. Fix: name a file, not a directory"
    )
    assert refused(write, "file/x.json") == f"error: file: File exists. {fix}"
    assert refused(write, "file/x/y.json") == f"error: file/x: Not a directory. {fix}"
    line = refused(write, "x" * 250)
    assert line.startswith("error: " + "x" * 250)
    assert line.endswith(": File name too long. Fix: choose a shorter name")
    assert refused(Path.read_text, "folder") == (
        "error: folder: Is a directory. Fix: name a file, not a directory"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    output = capsys.readouterr().err
    assert output == (
        "error: interrupted. Fix: repeat the command to go on; what is finished is kept\n"
    )


@pytest.mark.parametrize("handler", ["ours", "of Ray"])
def test_sigterm_is_one_line_and_asks_for_the_command_again(handler: str) -> None:
    of_ray = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"
    program = (
        "import os, signal, sys, time\nfrom sharding.errors import one_line_errors\n"
        f"with one_line_errors():\n    {of_ray if handler == 'of Ray' else 'pass'}\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == os.EX_TEMPFAIL
    assert done.stderr == "error: SIGTERM; repeat the command to go on, what is finished is kept\n"


@pytest.mark.parametrize("installed", [True, False])
def test_a_hint_is_a_command_that_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if installed else None)
    dataset = tmp_path / "my dataset"
    (dataset / "images").mkdir(parents=True)
    (dataset / MANIFEST_FILE).touch()
    hint = errors.how_to_repair(dataset / "images/train-000000.tar")
    program = shlex.split(hint.removeprefix("run "))
    script = Path(sys.executable).with_name(errors.PROGRAM)
    expected = errors.PROGRAM if installed else str(script)
    assert program == [expected, "verify", "--dataset", str(dataset), "--repair"]


def test_programs_beside_python_are_run_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert errors.program("mlflow", "mlflow") == [".venv/bin/python", "-m", "mlflow"]
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/mlflow").touch()
    assert errors.program("mlflow", "mlflow") == [".venv/bin/mlflow"]


def test_only_what_is_below_the_working_directory_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert errors.here(tmp_path / "run/data set/x") == "data set/x"
    for other in (str(tmp_path), f"{tmp_path}/runs/x", "s3://bucket/x", "x/y", "/x"):
        assert errors.here(other) == other
    monkeypatch.chdir("/")
    assert errors.here("/data/x") == "/data/x"


def test_a_file_of_no_dataset_has_a_hint_to_fill_in(tmp_path: Path) -> None:
    assert "--dataset DATASET --repair" in errors.how_to_repair(tmp_path / "labels.parquet")
