"""Report bad input as one line that names file, row and fix."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from sharding import log
from sharding.layout import MANIFEST_FILE, PREDICTIONS_DONE, PREDICTIONS_PLAN

PROGRAM = "openimages-boostlu"
"""Console command that runs every job."""

_REFUSALS = {
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "choose a place that this user can read, and write to where it is an output",
    ),
    errno.EISDIR: "name a file, not a directory",
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), "choose another place: a file is where a directory has to be"
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What a file system answers to a place that cannot be, whoever writes there, and what to do."""

REPEAT_COMMAND = "repeat the command that made the dataset, or restore the file from a copy"
"""Fix for a file of a dataset that follows from its annotations and options."""


def command(job: str, *arguments: str | os.PathLike[str]) -> str:
    """Write the command line of a job to run in this shell, but for credentials in URLs."""
    return log.redact(shlex.join([*program(PROGRAM, "pipeline"), job, *map(str, arguments)]))


def program(name: str, module: str) -> list[str]:
    """Write the words that run an installed program in this shell, which may lack its folder."""
    if shutil.which(name):
        return [name]
    script = os.path.join(os.path.dirname(sys.executable), name)
    return [here(script)] if os.path.exists(script) else [here(sys.executable), "-m", module]


def here(location: str | os.PathLike[str]) -> str:
    """Write a path for this shell: relative where it is below the working directory."""
    path, directory = os.fspath(location), os.getcwd().rstrip(os.sep)
    below = directory and path.startswith(directory + os.sep)
    return os.path.relpath(path) if below else path


def python_command(code: str) -> str:
    """Write the command line that runs a line of Python with what is installed here."""
    return log.redact(shlex.join([here(sys.executable), "-c", code]))


def how_to_repair(file: str | os.PathLike[str], *more: str) -> str:
    """Say how to mend the dataset that a file is of, as the fix of an `InputError`."""
    parents = Path(file).absolute().parents
    dataset = next((path for path in parents if (path / MANIFEST_FILE).exists()), "DATASET")
    return f"run {command('verify', '--dataset', dataset, '--repair', *more)}"


class InputError(Exception):
    """Bad input of the user; ``str(error)`` is one line to act on.

    Not a ValueError: tyro would swallow it, with its fix, where it comes from an option.

    Args:
        problem: what is wrong, with the offending value.
        file: the file or URL it was found in.
        row: 1-based line number in ``file`` (the header is line 1).
        fix: what to do about it, as an imperative sentence.

    Attributes:
        exit_code: of a job that it ends.
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        row: int | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.fix = problem, file, row, fix
        super().__init__(problem)

    def __str__(self) -> str:
        place = "" if self.file is None else f"{os.fspath(self.file)}: "
        if self.row is not None:
            place = f"{place.removesuffix(': ')}, row {self.row}: ".removeprefix(", ")
        fix = "" if self.fix is None else f". Fix: {self.fix}"
        return log.redact(f"{place}{self.problem}{fix}")

    @property
    def fields(self) -> dict[str, str | int]:
        """File, row and fix, as far as they are known, for structured logs."""
        file = None if self.file is None else os.fspath(self.file)
        fields = {"file": file, "row": self.row, "fix": self.fix}
        return {
            name: log.redact(value) if isinstance(value, str) else value
            for name, value in fields.items()
            if value is not None
        }

    def __reduce__(self) -> tuple[object, ...]:
        # Ray pickles exceptions on their way back from a task; keep the keyword fields.
        return _rebuild, (self.problem, self.file, self.row, self.fix)


class MachineError(InputError):
    """Report what a machine lacks for the moment: elsewhere, or later, the same job succeeds."""

    exit_code = os.EX_TEMPFAIL

    def __reduce__(self) -> tuple[object, ...]:
        # The exit code is the class's, which has to outlive the way back from a task.
        return _rebuild, (self.problem, self.file, self.row, self.fix, type(self))


def ignored(
    options: Iterable[str],
    why: str,
    *,
    otherwise: str = "",
    file: str | os.PathLike[str] | None = None,
) -> InputError:
    """Make the error of options that would do nothing.

    Args:
        options: as they are written, ``--rank``.
        why: what leaves nothing for them to do, to follow "would be ignored".
        otherwise: what else would mend it, to follow the advice to leave them out.
        file: that decides it.
    """
    listed = " and ".join(options)
    fix = f"leave out {listed}{otherwise}"
    return InputError(f"{listed} would be ignored{why}", file=file, fix=fix)


def unknown(
    what: str,
    value: str,
    known: Iterable[str],
    *,
    listed: str = "",
    file: str | os.PathLike[str] | None = None,
) -> InputError:
    """Make the error of a word that is none of the known ones; it names the nearest.

    Args:
        what: kind of the word, such as "method".
        value: as given.
        known: all there are.
        listed: what lists them, where they are too many for a line.
        file: that has it.
    """
    import difflib

    known = list(known)
    folded = {word.casefold(): word for word in known}
    close = [folded[word] for word in difflib.get_close_matches(value.casefold(), folded, n=1)]
    words = ", ".join(known)
    if close:
        fix = f"did you mean {close[0]}? {listed or f'There are {words}'}"
    else:
        fix = listed or f"choose one of {words}"
    return InputError(f"no {what} {value!r}", file=file, fix=fix)


def refuse_unfinished_predictions(folder: str | os.PathLike[str], names: Container[str]) -> None:
    """Refuse the output of a `predict` that was stopped, whose parts look like all of it.

    Args:
        folder: the output, or its URL.
        names: of the files there.

    Raises:
        InputError: `predict` began to write there and has not ended.
    """
    if PREDICTIONS_PLAN in names and PREDICTIONS_DONE not in names:
        fix = "repeat the `predict` command that writes them; it keeps what is finished"
        raise InputError("the predictions are unfinished", file=folder, fix=fix)


def _rebuild(
    problem: str,
    file: str | None,
    row: int | None,
    fix: str | None,
    kind: type[InputError] = InputError,
) -> InputError:
    return kind(problem, file=file, row=row, fix=fix)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an `InputError` into one line on stderr and its exit status (every job's outer scope).

    So is an `OSError` of a place that this user cannot write to or read (a read-only file system),
    or that cannot be: a directory where a file is meant, or the other way round, a name too long.
    Ctrl-C is a line and status 130, SIGTERM a line and `os.EX_TEMPFAIL`, which asks a scheduler to
    repeat the command; a second one ends the process at once. Ray wraps a task's exception in one
    that is an instance of both; the cause is unwrapped. A reader that closes the pipe early
    (``... --help | head``) is no error.
    """
    try:
        with _exit_on_sigterm():
            yield
    except SystemExit as ended:
        if ended.code != signal.SIGTERM:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log.error("SIGTERM; repeat the command to go on, what is finished is kept")
        raise SystemExit(os.EX_TEMPFAIL) from None
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # or what cleans up would show a traceback
        log.error("interrupted. Fix: repeat the command to go on; what is finished is kept")
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        raise SystemExit(0) from None
    except InputError as error:
        cause = getattr(error, "cause", error)
        log.error(str(cause), **cause.fields)
        raise SystemExit(cause.exit_code) from None
    except OSError as error:
        fix = _REFUSALS.get(error.errno or 0)
        # A directory that is there when it is made is a fault of the program.
        is_ours = error.errno == errno.EEXIST and not os.path.isfile(str(error.filename))
        if fix is None or is_ours:
            raise
        refused = InputError(
            error.strerror or log.first_line(error),
            file=error.filename2 or error.filename,  # of a renamed file the one it would be
            fix=fix,
        )
        log.error(str(refused), **refused.fields)
        raise SystemExit(2) from None


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit of that signal's number on SIGTERM, as Ray does once it is started.

    Does nothing outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
