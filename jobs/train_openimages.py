"""Train a CAM + BoostLU network on a dataset, or resume.

The script of `openimages-boostlu train`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("train")
