"""Compute a checkpoint's mAP per class group on a split.

The script of `openimages-boostlu evaluate`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("evaluate")
