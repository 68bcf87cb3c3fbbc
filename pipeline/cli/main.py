"""Run a job by its name; import nothing of it before, so that the list of jobs shows at once."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

from sharding.errors import PROGRAM, command, one_line_errors, unknown

_DATASETS, _MODELS, _CLUSTERS = "Datasets", "Models", "Clusters"
_MODULES = {_DATASETS: "dataset_jobs", _MODELS: "model_jobs", _CLUSTERS: "cluster_jobs"}
_JOBS = {
    "make-demo": (_DATASETS, "draw a demo collection, partially annotated"),
    "shard": (_DATASETS, "turn an annotation dump and its images into a dataset"),
    "import": (_DATASETS, "turn VOC, COCO, NUS-WIDE, CUB or a CSV into a dataset"),
    "reshard": (_DATASETS, "lay new annotations over a dataset"),
    "view": (_DATASETS, "write a page of its images and labels"),
    "remove": (_DATASETS, "take images down, for good"),
    "verify": (_DATASETS, "check a dataset, mend it"),
    "train": (_MODELS, "train a CAM + BoostLU network, or resume"),
    "evaluate": (_MODELS, "compute a checkpoint's mAP per class group"),
    "study": (_MODELS, "compare methods over seeds, with intervals"),
    "predict": (_MODELS, "label a dataset, a folder or a list of URLs"),
    "export": (_MODELS, "write safetensors, torch.export and ONNX"),
    "candidates": (_MODELS, "list the labels that are likely missing, to review"),
    "check-cluster": (_CLUSTERS, "check a cluster file before `ray up`"),
}

# Options come from the job's help, which takes half a second, and files from the shell.
_COMPLETION = """\
[ -z "$ZSH_VERSION" ] || {{ autoload -U +X bashcompinit && bashcompinit; }}
_openimages_boostlu() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  if [ "$COMP_CWORD" = 1 ]; then words="{jobs}"
  elif [ "${{word#-}}" != "$word" ]; then
    words=$({program} "${{COMP_WORDS[1]}}" --help 2>/dev/null | grep -oE -- '--[a-z][a-z.-]+')
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _openimages_boostlu {program}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of the program: a job's name and its options, or ``--version``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    job, *rest = arguments or ["--help"]
    if job in ("--help", "-h"):
        print(_help())
    elif job == "--version":
        import pipeline

        print(f"{PROGRAM} {pipeline.__version__}")
    elif job == "--completion":
        print(_COMPLETION.format(program=PROGRAM, jobs=" ".join(_JOBS)))
    elif job == "--list":
        run("train", arguments)
    else:
        with one_line_errors():
            _require(job)
        run(job, rest, f"{PROGRAM} {job}")


def run(job: str, arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run one job; bad input ends in one line and exit status 2.

    Args:
        job: its name.
        arguments: its options, by default those of this process.
        program: what its help calls it, by default the script's name.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a letter of a class name
            stream.reconfigure(errors="replace")
    with one_line_errors():
        module = _MODULES[_JOBS[job][0]]
        function = f"run_{job.replace('-', '_')}"
        call = getattr(importlib.import_module(f"pipeline.cli.{module}"), function)
        call(sys.argv[1:] if arguments is None else arguments, program)


def _help() -> str:
    lines = [f"usage: {PROGRAM} JOB [OPTIONS]"]
    for title in _MODULES:
        lines += ["", title]
        lines += [f"  {job:13} {does}" for job, (kind, does) in _JOBS.items() if kind == title]
    return "\n".join(
        [
            *lines,
            "",
            f"{PROGRAM} JOB --help                      a job's options",
            f"{PROGRAM} --list methods|backbones|presets",
            f"{PROGRAM} --completion                     of bash and zsh, for eval",
            f"{PROGRAM} --version",
        ]
    )


def _require(job: str) -> None:
    if job not in _JOBS:
        raise unknown("job", job, _JOBS, listed=f"{command('--help')} lists all")
