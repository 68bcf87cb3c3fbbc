"""Export a run's label candidates, to review.

The script of `openimages-boostlu candidates`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("candidates")
