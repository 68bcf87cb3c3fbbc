"""Check a dataset against its manifest, mend it.

The script of `openimages-boostlu verify`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("verify")
