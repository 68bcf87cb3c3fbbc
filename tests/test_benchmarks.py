"""Commands of benchmarks in docs, Makefile and docstrings name modules and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in REPOSITORY.glob("benchmarks/*/*.py")
}
TEXTS = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/**/*.md"),
    *REPOSITORY.glob("benchmarks/**/*.py"),
    REPOSITORY / "Makefile",
]
COMMAND = re.compile(r"-m (benchmarks\.[\w.]+)([^`\n#;|]*)")


def commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """(file, module, options) of every command."""
    return [
        (path.name, module, tuple(re.findall(r"--([\w-]+)", rest)))
        for path in TEXTS
        for module, rest in COMMAND.findall(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("file", "module", "options"), commands())
def test_the_command_exists(file: str, module: str, options: tuple[str, ...]) -> None:
    source = MODULES[module]
    assert 'if __name__ == "__main__":' in source
    for option in options:
        field = rf"^    {option.replace('-', '_')}: "
        # Options of a class that a command takes whole stand in another module.
        fields = any(re.search(field, text, re.MULTILINE) for text in MODULES.values())
        assert f'"--{option}"' in source or fields, f"{module} has no --{option}"


def test_the_makefile_measures_with_modules_that_exist() -> None:
    (names,) = re.findall(r"^BENCHES := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for name in names.split():
        assert 'if __name__ == "__main__":' in MODULES[f"benchmarks.{name}"]


def test_every_benchmark_with_options_can_be_run() -> None:
    for module, source in MODULES.items():
        if "argparse" in source or "tyro.cli" in source:
            assert source.rstrip().splitlines()[-1].startswith("    "), module
            assert 'if __name__ == "__main__":' in source, module
            assert f"-m {module}" in source, f"{module} does not say how it is run"
