"""The tutorial's commands run as they stand, in an empty directory, one after the other."""

from __future__ import annotations

import json
import re
import shlex

import pyarrow.parquet as pq
import pytest

from sharding.manifest import Dataset
from tests.support.home import Home
from tests.test_documented_commands import REPOSITORY, shell_commands
from tests.test_hints import hint

pytestmark = pytest.mark.ray
COMMANDS = [
    shlex.split(command)[1:]
    for command in shell_commands(REPOSITORY / "docs/tutorial.md")
    if command.startswith("openimages-boostlu ")
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Home:
    return Home(tmp_path_factory.mktemp("tutorial"), ray_address)


@pytest.fixture(scope="module")
def outputs(home: Home) -> dict[str, str]:
    """What each job printed, by its name; the first that fails ends the story."""
    return {job: home.program(job, *options) for job, *options in COMMANDS}


def test_every_step_leaves_what_the_page_says(home: Home, outputs: dict[str, str]) -> None:
    tour = home.directory / "tour"
    header = (tour / "dump/2017_11/train/annotations-human.csv").read_text().splitlines()[0]
    assert f"\n{header}\n" in (REPOSITORY / "docs/tutorial.md").read_text()
    assert "is intact" in outputs["verify"]
    assert "best checkpoint" in outputs["train"]
    assert "95% interval" in outputs["evaluate"]
    assert (tour / "candidates/sheet.html").read_text().count("<article") == 20
    assert "20 added" in outputs["reshard"]
    assert {"2017_11", "reviewed"} == set(Dataset.open(tour / "dataset").manifest.labels)
    predictions = pq.read_table(tour / "predictions", columns=["mid"])
    assert len(predictions) == 150
    assert all(len(row) == 3 for row in predictions["mid"].to_pylist())
    exported = json.loads((tour / "exported/model.json").read_text())
    assert len(exported["names"]) == 20
    assert re.search(r"model\.onnx .* logits within", outputs["export"])


@pytest.mark.parametrize("job", ["verify", "predict", "export"])
def test_what_a_job_proposes_next_runs(home: Home, outputs: dict[str, str], job: str) -> None:
    shown = home.shell(hint(outputs[job]))
    expected = {"verify": "nothing was kept", "predict": "'mid': [", "export": "backbone."}
    assert expected[job] in shown


def test_the_notebook_goes_on_from_there(home: Home, outputs: dict[str, str]) -> None:
    """Each cell runs, and what a notebook would show of its last line can be shown."""
    script = home.directory / "notebook.py"
    script.write_text(_RUN_NOTEBOOK)
    shown = home.run("notebook.py", str(REPOSITORY / "docs/tour.ipynb"))
    assert "Dataset(20 classes; images: " in shown
    assert "trained with ll-r, on cpu)" in shown
    assert "<th>probability</th>" in shown
    assert "PNG of " in shown
    assert "| BoostLU on " in shown


_RUN_NOTEBOOK = """
import ast, json, sys

names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else ast.parse("None").body[0]
    exec(compile(tree, "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    for form in ("_repr_markdown_", "_repr_html_", "_repr_png_", "__repr__"):
        if value is not None and hasattr(value, form):
            text = getattr(value, form)()
            print(f"PNG of {len(text)} bytes" if isinstance(text, bytes) else text)
"""
