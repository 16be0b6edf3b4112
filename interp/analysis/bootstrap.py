"""Means with intervals, resampled over pictures: samples that share a picture (or a scene) are drawn together."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray


def cluster_bootstrap(values: ArrayLike, clusters: ArrayLike, *, n_resamples: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap means (n_resamples, ...) of `values` (sample, ...) under resampling of whole `clusters` (sample,).

    NaN values do not count; a resample without any value is NaN.
    """
    table = np.asarray(values, dtype=np.float64)
    _, member = np.unique(_plain(clusters), return_inverse=True)
    n = int(member.max()) + 1
    sums = np.zeros((n, *table.shape[1:]))
    counts = np.zeros_like(sums)
    np.add.at(sums, member, np.nan_to_num(table))
    np.add.at(counts, member, ~np.isnan(table))
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.tensordot(draws, sums, axes=1) / np.tensordot(draws, counts, axes=1)


def mean_interval(
    array: xr.DataArray, clusters: xr.DataArray, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> xr.Dataset:
    """Mean over `sample` and its percentile interval.

    `array` (sample, ...), `clusters` (sample,), usually `image_id`. Returns `mean` (...), `interval` (ci_bound, ...), and `n` (...), the
    number of samples with a value. An interval over one cluster is NaN: one picture says nothing about the spread.
    """
    ordered = array.transpose("sample", ...)
    rest = [dim for dim in ordered.dims if dim != "sample"]
    means = cluster_bootstrap(ordered.values, clusters.values, n_resamples=n_resamples, seed=seed)
    tails = [(1 - level) / 2, 1 - (1 - level) / 2]
    enough = len(np.unique(_plain(clusters.values))) > 1
    bounds = np.nanquantile(means, tails, axis=0) if enough else np.full((2, *ordered.shape[1:]), np.nan)
    interval = xr.DataArray(
        bounds,
        dims=["ci_bound", *rest],
        coords={"ci_bound": ["lower", "upper"]},
        attrs={"long_name": f"{level:.0%} percentile bootstrap interval over {clusters.name or 'clusters'}", "level": level},
    )
    return xr.Dataset({"mean": array.mean("sample"), "interval": interval, "n": array.notnull().sum("sample")})


def _plain(names: ArrayLike) -> NDArray[np.generic]:
    """Names as objects where they are variable-width strings, on which numpy's set functions are not safe (2.4)."""
    array = np.asarray(names)
    return array.astype(object) if array.dtype.kind == "T" else array
