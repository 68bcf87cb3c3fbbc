"""Class priors as a file keyed by MID: class lists differ between runs and dumps."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sharding.atomic import replacing
from sharding.errors import InputError


def write(path: str | os.PathLike[str], mids: Sequence[str], prior_K: torch.Tensor) -> None:
    """Write one prior per class; ``mids`` in class order."""
    if len(mids) != len(prior_K) or len(set(mids)) != len(mids):
        raise ValueError(f"{len(mids)} MIDs, not all distinct, for {len(prior_K)} classes")
    table = pa.table({"mid": list(mids), "prior": prior_K.double().numpy()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read(path: str | os.PathLike[str], mids: Sequence[str]) -> torch.Tensor:
    """The priors of the classes ``mids``, float64 (K,), whatever order the file has.

    Raises:
        InputError: no such file, not a file of priors, or a class is not in it.
    """
    try:
        table = pq.read_table(path, columns=["mid", "prior"])
    except FileNotFoundError:
        raise InputError("no such file", file=path, fix="estimate a prior in mode ignore") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a file of priors ({reason})", file=path, fix="write it with prior.write"
        ) from None
    prior_by_mid = dict(zip(table["mid"].to_pylist(), table["prior"].to_pylist(), strict=True))
    missing = [mid for mid in mids if mid not in prior_by_mid]
    if missing:
        raise InputError(
            f"no prior for {len(missing)} classes, the first is {missing[0]}",
            file=path,
            fix="estimate the prior on a dump with the same classes",
        )
    return torch.tensor([prior_by_mid[mid] for mid in mids], dtype=torch.float64)
