"""Compare methods over seeds on a dataset, or go on with it.

The script of `openimages-boostlu study`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("study")
