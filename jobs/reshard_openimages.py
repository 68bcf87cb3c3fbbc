"""Lay a new annotation dump, or an export of ours, over a dataset.

The script of `openimages-boostlu reshard`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("reshard")
