"""Read and write class priors keyed by MID: class lists differ between runs and dumps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch

from pipeline import storage
from pipeline.config.train import parse_options
from sharding.errors import InputError
from sharding.log import count
from sharding.storage.parquet import as_input_error, read_table, write_table

_SCHEMA = pa.schema({"mid": pa.string(), "prior": pa.float64()})
_KIND = "file of priors"
_FIX = "estimate one in mode ignore, or write one with class_prior.write"


def write(path: str | os.PathLike[str], mids: Sequence[str], prior_K: torch.Tensor) -> None:
    """Write one prior per class; ``mids`` in class order."""
    if len(mids) != len(prior_K) or len(set(mids)) != len(mids):
        raise ValueError(f"{len(mids)} MIDs, not all distinct, for {len(prior_K)} classes")
    columns = {"mid": list(mids), "prior": prior_K.double().numpy()}
    write_table(pa.table(columns, schema=_SCHEMA), path)


def find(location: str, mids: Sequence[str]) -> torch.Tensor:
    """Read the priors of a file of them, or of a checkpoint of a P-ASL run, float64 (K,).

    Args:
        location: a path or URL.
        mids: of the classes, in their order.

    Raises:
        InputError: neither, no epoch was finished, or a class is not in it.
    """
    if not storage.exists(storage.join(location, "meta.json")):
        return read(location, mids)
    from pipeline.models import checkpoint  # brings the models

    state, meta = checkpoint.load_training(location)["method"], checkpoint.read_meta(location)
    options = parse_options(meta.train_config.method_options)
    # 0.2.0 added predictions up in every mode.
    ignores = options.get("mode") == "ignore" or bool(options.get("prior_epochs"))
    if not ignores or not float(state.get("prior_images", 0)):
        raise InputError(
            "a checkpoint without priors predicted in mode ignore",
            file=location,
            fix="pass one of a run of p-asl with --method-options mode=ignore",
        )
    prior_K = state["prior_sum"] / state["prior_images"]
    by_mid = dict(zip(meta.mids, prior_K.tolist(), strict=True))
    return _in_order(by_mid, mids, location)


def read(path: str | os.PathLike[str], mids: Sequence[str]) -> torch.Tensor:
    """Read the priors of the classes ``mids`` from a file in any order, float64 (K,).

    Raises:
        InputError: no such file, not a file of priors, or a class is not in it.
    """
    with as_input_error(path, kind=_KIND, fix=_FIX):
        content = storage.read_bytes(storage.absolute(os.fspath(path)))
    table = read_table(path, _SCHEMA, kind=_KIND, fix=_FIX, content=content, nulls=False)
    by_mid = dict(zip(table["mid"].to_pylist(), table["prior"].to_pylist(), strict=True))
    return _in_order(by_mid, mids, path)


def _in_order(
    prior_by_mid: Mapping[str, float], mids: Sequence[str], path: str | os.PathLike[str]
) -> torch.Tensor:
    missing = [mid for mid in mids if mid not in prior_by_mid]
    if missing:
        raise InputError(
            f"no prior for {count(len(missing), 'class')}, the first is {missing[0]}",
            file=path,
            fix="estimate the prior on a dump with the same classes",
        )
    return torch.tensor([prior_by_mid[mid] for mid in mids], dtype=torch.float64)
