"""What the model was able to see at all: the first thing to report, before who looked where."""

from __future__ import annotations

from typing import get_args

import numpy as np
import xarray as xr

from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError
from interp.geometry import Visibility

CLASSES = get_args(Visibility)


def visibility(ds: xr.Dataset, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> xr.Dataset:
    """How many samples keep their evidence through the model's preprocessing.

    Parameters
    ----------
    ds
        A trace, or any result that kept the coordinates `visibility` and `image_id` (sample,).

    Returns
    -------
    xr.Dataset
        Over the dimension `visibility` (visible, cut, too_small, lost, and none for samples without evidence): `count`, `share` in
        [0, 1], and `interval` (ci_bound, visibility), bootstrapped over pictures. Of a class that no sample is in, the interval is 0 to 0.

    Raises
    ------
    InterpError
        `ds` has no such coordinates.
    """
    for name in ("visibility", "image_id"):
        if name not in ds.coords:
            raise InterpError(f"The dataset has no coordinate {name!r} on its samples; pass a trace.")
    found = ds["visibility"].values.astype(object)
    of_class = found[:, None] == np.array(CLASSES, dtype=object)
    table = xr.DataArray(of_class.astype(float), dims=("sample", "visibility"), coords={"visibility": list(CLASSES)})
    clusters = xr.DataArray(ds["image_id"].values, dims="sample", name="image_id")
    result = mean_interval(table, clusters, level=level, n_resamples=n_resamples, seed=seed)
    count = xr.DataArray(of_class.sum(axis=0), dims="visibility", attrs={"long_name": "samples", "units": "1"})
    share = result["mean"].assign_attrs(long_name="share of samples", units="1")
    described = table["visibility"].assign_attrs(long_name="what the model's preprocessing keeps of the evidence")
    return xr.Dataset({"count": count, "share": share, "interval": result["interval"]}, coords={"visibility": described}, attrs=ds.attrs)
