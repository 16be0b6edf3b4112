"""Arrays that speak of the same samples, brought into one order: by the samples' names, or by place where they have none."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.errors import InterpError


def positions(wanted: xr.DataArray | xr.Dataset, source: xr.DataArray | xr.Dataset, what: str, where: str) -> NDArray[np.intp]:
    """Where in `source` each sample of `wanted` is; `what` and `where` are what messages call the two.

    Raises
    ------
    InterpError
        A sample of `wanted` is not in `source`, or one of the two has no names and they differ in length.
    """
    n, among = wanted.sizes["sample"], source.sizes["sample"]
    if "sample" not in wanted.coords or "sample" not in source.coords:
        if n != among:
            raise InterpError(
                f"The {n} samples of {what} and the {among} of {where} cannot be matched without names; take both from one trace."
            )
        return np.arange(n)
    names, known = ([str(name) for name in each["sample"].values.tolist()] for each in (wanted, source))
    if names == known:
        return np.arange(n)
    place = {name: index for index, name in enumerate(known)}
    unknown = next((name for name in names if name not in place), None)
    if unknown is not None:
        raise InterpError(f"Sample {unknown!r} of {what} is not in {where}; take both from the same samples.")
    return np.array([place[name] for name in names], dtype=np.intp)


def yes_or_no(given: str | xr.DataArray, ds: xr.Dataset, what: str) -> NDArray[np.float64]:
    """One of 1, 0 and NaN for each sample of `ds` (sample,).

    Parameters
    ----------
    given
        A score of `ds`, or an array (sample,), which may be in another order and have further samples.
    ds
        A trace.
    what
        The argument's name, for messages.

    Raises
    ------
    InterpError
        The score is unknown, the array has other dimensions or lacks a sample, or a number is neither 0 nor 1.
    """
    if isinstance(given, str):
        if given not in ds.data_vars or ds[given].dims != ("sample",):
            raise InterpError(f"The trace has no score {given!r} per sample; trace with answers, or pass an array of 1 and 0.")
        values = ds[given].values.astype(np.float64)
    else:
        if given.dims != ("sample",):
            raise InterpError(f"`{what}` has dimensions {given.dims}; it must be one number per sample.")
        values = given.values.astype(np.float64)[positions(ds, given, "the trace", f"`{what}`")]
    if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        name = given if isinstance(given, str) else given.name
        raise InterpError(f"`{what}` ({name}) is not only 0 and 1, so it does not split samples in two; use a score like exact_match.")
    return values
