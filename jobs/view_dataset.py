"""Write a page of a dataset's images with their labels.

The script of `openimages-boostlu view`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("view")
