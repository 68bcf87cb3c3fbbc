"""Predict the labels of a dataset, a folder or a list of URLs, to Parquet.

$ python jobs/predict_openimages.py --checkpoint runs/NAME --images DIR --output predictions
$ python jobs/predict_openimages.py --checkpoint models:/NAME@best --urls urls.txt --output s3://B/OUT
$ ray submit ray_cluster.yaml jobs/predict_openimages.py -- --checkpoint ... --dataset ...
"""

from __future__ import annotations

import tyro

from pipeline.config.commands import PredictConfig
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, connect, predict what is missing, print where the predictions are."""
    with one_line_errors():
        config = tyro.cli(PredictConfig, description=__doc__)
        from pipeline.cluster import session
        from pipeline.inference import predict

        counts = predict.predict(config, session.connect)
        print(f"{counts['images']:,} images, {counts['errors']:,} unreadable (column error)")
        print(f"predictions  {config.output}/part-*.parquet  ({counts['files']} files)")


if __name__ == "__main__":
    main()
