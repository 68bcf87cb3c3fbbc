"""Class priors as a file keyed by MID: class lists differ between runs and dumps."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline import storage
from sharding.errors import InputError
from sharding.storage.files import replacing


def write(path: str | os.PathLike[str], mids: Sequence[str], prior_K: torch.Tensor) -> None:
    """Write one prior per class; ``mids`` in class order."""
    if len(mids) != len(prior_K) or len(set(mids)) != len(mids):
        raise ValueError(f"{len(mids)} MIDs, not all distinct, for {len(prior_K)} classes")
    table = pa.table({"mid": list(mids), "prior": prior_K.double().numpy()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def find(location: str, mids: Sequence[str]) -> torch.Tensor:
    """The priors at ``location`` (a path or URL): a file of them, or a checkpoint of a P-ASL run.

    Raises:
        InputError: neither, no epoch was finished, or a class is not in it.
    """
    if not storage.exists(storage.join(location, "meta.json")):
        return read(location, mids)
    from pipeline.models import checkpoint  # brings the models

    state = checkpoint.load_training(location)["method"]
    if not float(state.get("prior_images", 0)):
        raise InputError(
            "a checkpoint without predicted priors",
            file=location,
            fix="pass one of a run of p-asl with --method-options mode=ignore",
        )
    prior_K = state["prior_sum"] / state["prior_images"]
    return _arranged(
        dict(zip(checkpoint.read_meta(location).mids, prior_K.tolist(), strict=True)),
        mids,
        location,
    )


def read(path: str | os.PathLike[str], mids: Sequence[str]) -> torch.Tensor:
    """The priors of the classes ``mids``, float64 (K,), whatever order the file has.

    Raises:
        InputError: no such file, not a file of priors, or a class is not in it.
    """
    try:
        content = storage.read_bytes(storage.absolute(os.fspath(path)))
        table = pq.read_table(io.BytesIO(content), columns=["mid", "prior"])
    except FileNotFoundError:
        raise InputError("no such file", file=path, fix="estimate a prior in mode ignore") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a file of priors ({reason})", file=path, fix="write it with prior.write"
        ) from None
    prior_by_mid = dict(zip(table["mid"].to_pylist(), table["prior"].to_pylist(), strict=True))
    return _arranged(prior_by_mid, mids, path)


def _arranged(
    prior_by_mid: Mapping[str, float], mids: Sequence[str], path: str | os.PathLike[str]
) -> torch.Tensor:
    missing = [mid for mid in mids if mid not in prior_by_mid]
    if missing:
        raise InputError(
            f"no prior for {len(missing)} classes, the first is {missing[0]}",
            file=path,
            fix="estimate the prior on a dump with the same classes",
        )
    return torch.tensor([prior_by_mid[mid] for mid in mids], dtype=torch.float64)
