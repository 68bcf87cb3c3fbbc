import pickle
import signal

import pytest

from sharding.errors import InputError, one_line_errors


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


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        _ = 1 / 0


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    told = capsys.readouterr().err
    assert told == (
        "error: interrupted. Fix: repeat the command to go on; what is finished is kept\n"
    )
