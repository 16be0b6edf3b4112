"""A stored variable of which every read gives its values, or says in one sentence that the store is damaged.

A store is opened without reading it, so a broken chunk is met much later, deep inside an analysis; its decoder's own error would name
neither the store nor what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from interp.errors import InterpError

Refuse = Callable[[str, Exception], InterpError]


def guarded(tree: xr.DataTree, refuse: Refuse) -> xr.DataTree:
    """The tree with all that is still to be read guarded.

    Parameters
    ----------
    tree
        As xarray opens it, lazily.
    refuse
        From a variable's name and what its decoder raised, the error to raise instead. It must pickle, for the tree to.
    """

    def of_group(group: xr.Dataset) -> xr.Dataset:
        # indexes were read when the tree was opened
        lazy = {name: variable for name, variable in group.variables.items() if name not in group.xindexes}
        variables = {name: _lazy(str(name), variable, refuse) for name, variable in lazy.items()}
        coordinates = {name: variables.pop(name) for name in list(variables) if name in group.coords}
        return group.assign(variables).assign_coords(coordinates)

    return tree.map_over_datasets(of_group)


def _lazy(name: str, variable: xr.Variable, refuse: Refuse) -> xr.Variable:
    # wrapped as xarray wraps what it opens: read once, and copied before it is changed
    lazy: Any = indexing.LazilyIndexedArray(_Guarded(name, variable, refuse))  # xarray types its own wrappers too narrowly
    read_once = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))
    return xr.Variable(variable.dims, read_once, variable.attrs, variable.encoding, fastpath=True)


class _Guarded(BackendArray):
    """A lazy variable as an array of xarray's own reading protocol."""

    def __init__(self, name: str, variable: xr.Variable, refuse: Refuse) -> None:
        self._name, self._variable, self._refuse = name, variable, refuse
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            return self._variable[key].values
        except Exception as error:  # every codec has errors of its own
            raise self._refuse(self._name, error) from error
