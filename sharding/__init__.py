"""Annotation dumps and JPEGs in, WebDataset shards with tri-state labels out.

A *dataset* is a directory: image tars that never change once committed, one label table per
annotation dump and split, the class table with its five groups, and `dataset.json`, written last.
This package knows neither torch nor Ray nor MLflow; jobs run its functions as Ray tasks.
"""
