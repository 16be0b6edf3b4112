"""A trace in pieces: every analysis reads a stored trace block by block, so that its size on disk does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import xarray as xr

BUDGET = 128 << 20  # bytes of the loaded variables in one block, in float32

Result = TypeVar("Result", xr.DataArray, xr.Dataset)


def blocks(ds: xr.Dataset, *names: str, budget: int = BUDGET) -> Iterator[xr.Dataset]:
    """Consecutive parts of `ds` along `sample`, loaded, with the variables `names` and all coordinates.

    Each holds at most `budget` bytes of those variables (one sample at least). Half-precision numbers, as a store keeps them, come as
    float32: sums over tokens need it.
    """
    chosen = ds[list(names)]
    total = sum(v.size * max(4, v.dtype.itemsize) for v in chosen.variables.values() if "sample" in v.dims)
    n = ds.sizes["sample"]
    step = max(1, int(n * budget / max(total, 1)))
    for start in range(0, n, step):
        block = chosen.isel(sample=slice(start, start + step)).load()
        yield block.assign({k: v.astype(np.float32) for k, v in block.data_vars.items() if v.dtype == np.float16})


def streamed(ds: xr.Dataset, compute: Callable[[xr.Dataset], Result], *names: str, budget: int = BUDGET) -> Result:
    """`compute` of each block (its result must keep `sample`), joined along `sample`."""
    return xr.concat([compute(block) for block in blocks(ds, *names, budget=budget)], dim="sample", coords="minimal", compat="override")
