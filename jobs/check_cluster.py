"""Check a cluster file before `ray up`.

The script of `openimages-boostlu check-cluster`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("check-cluster")
