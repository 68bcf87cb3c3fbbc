"""Name the source of the code that runs, as MLflow shows it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_tags() -> dict[str, str]:
    """Read the commit of a checkout and whether it was changed since; empty without git.

    Empty, too, where the code is installed below somebody's own repository, as in its `.venv`.
    """
    git = ["git", "-C", str(Path(__file__).parents[2])]
    is_ours = ["ls-files", "--error-unmatch", __file__]
    try:
        _, commit, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, timeout=10, check=True)
            for command in (is_ours, ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "mlflow.source.git.commit": commit.stdout.strip(),
        "git_dirty": str(bool(changed.stdout.strip())).lower(),
    }
