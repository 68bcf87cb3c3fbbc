"""Draw a demo collection: photographs, partial annotations, complete ground truth.

The script of `openimages-boostlu make-demo`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("make-demo")
