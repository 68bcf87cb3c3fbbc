"""Turn an annotation dump and its images into a dataset.

The script of `openimages-boostlu shard`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("shard")
