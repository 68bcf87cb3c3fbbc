"""Run a job by its name: ``python -m pipeline train --dataset DIR``."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
