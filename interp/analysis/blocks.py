"""A trace in pieces: every analysis reads a stored trace block by block, so that its size on disk does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from interp.errors import InterpError

BUDGET = 128 << 20  # bytes of the loaded variables in one block, in float32

Result = TypeVar("Result", xr.DataArray, xr.Dataset)
Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)


def blocks(ds: xr.Dataset, *names: str, budget: int = BUDGET) -> Iterator[xr.Dataset]:
    """Consecutive parts of `ds` along `sample`, with the variables `names` loaded.

    Each holds at most `budget` bytes of those variables (one sample at least). Half-precision numbers, as a store keeps them, come as
    float32: sums over tokens need it. Coordinates that are not named come along as they are, on disk if they were on disk.

    Raises
    ------
    InterpError
        `ds` has no dimension `sample`, no sample, or not all of the variables.
    """
    if "sample" not in ds.dims:
        raise InterpError("The trace has no dimension 'sample'; keep one sample as ds.isel(sample=[k]).")
    n = ds.sizes["sample"]
    if n == 0:
        raise InterpError("The trace holds no samples; choose some.")
    for name in names:
        if name not in ds.variables:
            raise InterpError(f"The trace has no variable {name!r}; pass a dataset as `interp.trace` returns it.")
    chosen = ds[list(names)]
    total = sum(chosen[v].size * max(4, chosen[v].dtype.itemsize) for v in names if "sample" in chosen[v].dims)
    step = max(1, int(n * budget / max(total, 1)))
    for start in range(0, n, step):
        block = chosen.isel(sample=slice(start, start + step))
        for name in names:
            block[name].load()
        yield block.assign({k: v.astype(np.float32) for k, v in block.data_vars.items() if v.dtype == np.float16})


def streamed(ds: xr.Dataset, compute: Callable[[xr.Dataset], Result], *names: str, budget: int = BUDGET) -> Result:
    """`compute` of each block (its result must keep `sample`), joined along `sample`."""
    parts: list[Any] = [compute(block) for block in blocks(ds, *names, budget=budget)]
    joined: Any = xr.concat(parts, dim="sample", coords="minimal", compat="override")
    return joined


def without_token_labels(labelled: Labelled) -> Labelled:
    """Without the coordinates along `token`, which arithmetic would otherwise read from disk only to drop them."""
    return labelled.drop_vars([name for name, coord in labelled.coords.items() if "token" in coord.dims])
