"""The groups of a stored trace as one lazy dataset: what `interp.trace` gives in memory, read where it is used."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

CHUNK_BYTES = 32 << 20  # of a large array in one dask chunk, in float32
_LARGE = ("attention", "attention_rows", "residual")


def as_trace(tree: xr.DataTree) -> xr.Dataset:
    """The groups `trace`, `scores` and `rows` of a store as one lazy dataset; what is not derived yet is missing."""
    dataset = tree["trace"].to_dataset()
    for group in ("scores", "rows"):
        if group in tree.children:
            found = tree[group].to_dataset().variables
            dataset = dataset.assign({name: variable for name, variable in found.items() if name not in dataset.variables})
    if "query_position" in dataset.data_vars:
        dataset = dataset.set_coords("query_position")
    return dataset.assign({name: _in_chunks(dataset[name].variable) for name in _LARGE if name in dataset})


def _in_chunks(variable: xr.Variable) -> xr.Variable:
    """Some samples per dask chunk, as float32: sums over tokens need it."""
    n = max(1, variable.shape[0])
    per_sample = max(1, variable.size // n) * np.dtype(np.float32).itemsize
    chunks: Any = (min(n, max(1, CHUNK_BYTES // per_sample)), *variable.shape[1:])
    # a random name: a token of the content would have to read it
    lazy = dask.array.from_array(_Single(variable), chunks, name=False, meta=np.empty(0, np.float32))
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)


class _Single:
    """A lazy variable that gives float32 where it is read. As a step after reading, dask would read whole chunks for one layer."""

    def __init__(self, variable: xr.Variable) -> None:
        self._variable = variable
        self.shape, self.ndim, self.dtype = variable.shape, variable.ndim, np.dtype(np.float32)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        return self._variable[key].values.astype(np.float32, copy=False)
