"""A dataset as a Zarr folder that is whole or not there: texts of one type, attributes that are text or numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr


def store(data: xr.Dataset, path: Path) -> None:
    """Write `data`, under its name only when all of it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    storable(data).to_zarr(partial, mode="w", consolidated=False)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def storable(data: xr.Dataset) -> xr.Dataset:
    """The same, with every text of variable width and every attribute text or a number: other kinds have no stable form in Zarr."""
    texts = {name: v.astype(object).astype(np.dtypes.StringDType()) for name, v in data.variables.items() if v.dtype.kind in "UO"}
    plain = data.assign_coords({name: v for name, v in texts.items() if name in data.coords})
    plain = plain.assign({name: v for name, v in texts.items() if name in data.data_vars})
    for v in plain.variables.values():
        v.attrs = {key: _attribute(value) for key, value in v.attrs.items()}
    return plain.assign_attrs({key: _attribute(value) for key, value in data.attrs.items()}).drop_encoding()


def _attribute(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value, default=str)
