"""Every command in README and docs is accepted by the program that it names."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tyro

from pipeline.cli.main import main

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
# Programs of others that take no options of ours.
_OTHERS = {"curl", "printf", "export", ".", "git", "cd", "make"}
_OTHERS_WITH_OUR_FILES = {"kubectl", "docker", "sky"}
# Name of the job by script: each script is one call of `pipeline.cli.main.run`.
JOBS = {
    path.name: re.findall(r'^    run\("([\w-]+)"\)$', path.read_text(), re.MULTILINE)[0]
    for path in REPOSITORY.glob("jobs/*.py")
}


class Accepted(Exception):
    """Ends a job once its options are parsed and checked."""


def shell_commands(page: Path) -> Iterator[str]:
    """The commands of a page's shell blocks, continued lines joined, comments left out."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if command := re.sub(r"(^|\s+)#.*", "", line).strip(" &"):
                yield command


COMMANDS = [(page.name, command) for page in PAGES for command in shell_commands(page)]


def test_there_are_commands_of_every_job() -> None:
    text = "\n".join(command for _, command in COMMANDS)
    assert {
        script for script, job in JOBS.items() if not re.search(rf"{script}|{job} ", text)
    } == set()


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_program_accepts_it(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        check_line(command, monkeypatch)
    except SystemExit as ended:
        pytest.fail(f"{page}: {command}\n{capsys.readouterr().err or ended}")


def check_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    if program == "env":
        program, *arguments = (word for word in arguments if "=" not in word or " " in word)
    check(re.sub(r".*/(?=.)", "", program), arguments, monkeypatch)


def check(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as its program would; SystemExit where the program refuses it."""
    if program in _OTHERS:
        return
    if program in _OTHERS_WITH_OUR_FILES:
        files = [word for word in arguments if word.startswith("deploy/")]
        assert [file for file in files if not (REPOSITORY / file).exists()] == []
        if (ours := "openimages-boostlu") in arguments:  # what a container runs
            check(ours, arguments[arguments.index(ours) + 1 :], monkeypatch)
    elif program == "python":
        script, *options = arguments
        if script == "-c":
            compile(options[0], "hint", "exec")
            return
        if script == "-m":
            module, *options = options
            if not module.startswith("benchmarks."):  # tests/test_benchmarks.py has these
                check({"pipeline": "openimages-boostlu"}.get(module, module), options, monkeypatch)
            return
        check_job(JOBS[Path(script).name], options, monkeypatch)
    elif program == "sbatch":
        script = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
        assert (REPOSITORY / arguments[script]).exists()
        check_job("train", arguments[script + 1 :], monkeypatch)
    elif program == "openimages-boostlu":
        check_job(arguments[0], arguments[1:], monkeypatch)
    elif program == "ray":
        from ray.scripts.scripts import cli

        options = parse_click(cli, arguments)
        if script := options.get("script"):
            check("python", [script, *options["script_args"]], monkeypatch)
        if entrypoint := options.get("entrypoint"):
            check(entrypoint[0], list(entrypoint[1:]), monkeypatch)
        if remote := options.get("cmd"):
            check_line(remote, monkeypatch)
    elif program == "mlflow":
        from mlflow.cli import cli

        parse_click(cli, arguments)
    else:
        pytest.fail(f"no test knows the program {program}")


def check_job(job: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job up to where its options are parsed and checked."""
    parse: Callable[..., Any] = tyro.cli

    def parse_and_end(*args: Any, **more: Any) -> Any:
        parse(*args, **more)
        raise Accepted

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(Accepted))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if job == "train":  # its options are merged with a preset's, then checked
            options = [*options, "--print-config"]
        else:
            stack.enter_context(monkeypatch.context()).setattr(tyro, "cli", parse_and_end)
        main([job, *options])


def parse_click(command: Any, arguments: list[str]) -> dict[str, Any]:
    """The parameters of a click program's command; what click refuses is SystemExit."""
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
    try:
        return command.make_context(command.name, arguments).params
    except click.UsageError as error:
        raise SystemExit(error.format_message()) from None
