"""Take images out of a dataset, for good.

The script of `openimages-boostlu remove`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("remove")
