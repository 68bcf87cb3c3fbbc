"""Predict the labels of a dataset, a folder or a list of URLs.

The script of `openimages-boostlu predict`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("predict")
