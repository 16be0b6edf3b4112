"""Means with intervals, resampled over pictures: samples that share a picture (or a scene) are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

_BUDGET = 64 << 20  # bytes of resampled statistics held at once

_Floats = NDArray[np.float64]


def cluster_bootstrap(values: ArrayLike, clusters: ArrayLike, *, n_resamples: int = 2000, seed: int = 0) -> _Floats:
    """Bootstrap means (n_resamples, ...) of `values` (sample, ...) under resampling of whole `clusters` (sample,).

    NaN values do not count; a resample without any value is NaN.
    """
    member = cluster_numbers(clusters)
    sums, counts = cluster_totals(np.asarray(values, dtype=np.float64), member)
    draws = resamples(len(sums), n_resamples, seed)
    return _quotient(np.tensordot(draws, sums, axes=1), np.tensordot(draws, counts, axes=1))


def mean_interval(
    array: xr.DataArray, clusters: xr.DataArray, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> xr.Dataset:
    """Mean over `sample` and its percentile interval.

    `array` (sample, ...), `clusters` (sample,), usually `image_id`. Returns `mean` (...), `interval` (ci_bound, ...), and `n` (...), the
    number of samples with a value. Where only one cluster has a value the interval is NaN: one picture says nothing about the spread.
    """
    ordered = array.transpose("sample", ...)
    rest = [dim for dim in ordered.dims if dim != "sample"]
    member = cluster_numbers(clusters.values)
    sums, counts = cluster_totals(ordered.values.reshape(len(member), -1).astype(np.float64), member)
    draws = resamples(len(sums), n_resamples, seed)
    bounds = interval_bounds(draws, [sums, counts], lambda totals: _quotient(*totals), level, (counts > 0).sum(axis=0))
    interval = xr.DataArray(
        bounds.reshape(2, *ordered.shape[1:]),
        dims=["ci_bound", *rest],
        coords={"ci_bound": ["lower", "upper"]},
        attrs=interval_attrs(level, str(clusters.name or "clusters")),
    )
    return xr.Dataset({"mean": array.mean("sample"), "interval": interval, "n": array.notnull().sum("sample")})


def interval_attrs(level: float, over: str) -> dict[str, object]:
    """What a bootstrap interval says about itself."""
    return {"long_name": f"{level:.0%} percentile bootstrap interval over {over}", "level": level}


def cluster_numbers(clusters: ArrayLike) -> NDArray[np.intp]:
    """Clusters (sample,) as numbers 0, 1, ..."""
    return np.unique(_plain(clusters), return_inverse=True)[1]


def cluster_totals(table: _Floats, member: NDArray[np.intp]) -> tuple[_Floats, NDArray[np.float64]]:
    """Sums and numbers (cluster, ...) of the values (sample, ...) of each cluster; NaN values do not count."""
    present = ~np.isnan(table)
    sums = np.zeros((int(member.max()) + 1, *table.shape[1:]))
    counts = np.zeros_like(sums)
    np.add.at(sums, member, np.where(present, table, 0.0))
    np.add.at(counts, member, present)
    return sums, counts


def resamples(n_clusters: int, n_resamples: int = 2000, seed: int = 0) -> _Floats:
    """How often each cluster is drawn (n_resamples, cluster)."""
    rng, shares = np.random.default_rng(seed), np.full(n_clusters, 1 / n_clusters)
    draws = np.empty((n_resamples, n_clusters))
    for start in range(0, n_resamples, 100):  # the generator's own integers would take as much memory again
        draws[start : start + 100] = rng.multinomial(n_clusters, shares, size=len(draws[start : start + 100]))
    return draws


def interval_bounds(
    draws: _Floats,
    totals: Sequence[_Floats],
    statistic: Callable[[Sequence[_Floats]], _Floats],
    level: float,
    n_clusters: NDArray[np.integer],
) -> _Floats:
    """Percentile interval of a statistic of totals over clusters.

    Parameters
    ----------
    draws
        As `resamples` gives them.
    totals
        Arrays (cluster, m).
    statistic
        Of the resampled totals, each (n_resamples, k) for k of the m columns; returns (..., n_resamples, k).
    level
        Of the interval, for example 0.95.
    n_clusters
        (..., m), how many clusters contribute to each statistic.

    Returns
    -------
    array
        (2, ..., m), the lower and the upper bound. NaN where fewer than two clusters contribute.
    """
    width = totals[0].shape[1]
    step = max(1, _BUDGET // (8 * len(draws) * len(totals)))
    # A total that only some clusters contribute to (a stratum's) is multiplied over these alone.
    active = [np.flatnonzero(total.any(axis=1)) for total in totals]
    tails = [(1 - level) / 2, 1 - (1 - level) / 2]
    parts = []
    for start in range(0, width, step):
        found = statistic([draws[:, rows] @ total[rows, start : start + step] for total, rows in zip(totals, active, strict=True)])
        parts.append(_percentiles(found, tails))
    bounds = np.concatenate(parts, axis=-1) if parts else np.empty((2, 0))
    return np.where(n_clusters < 2, np.nan, bounds)


def _percentiles(values: _Floats, tails: Sequence[float]) -> _Floats:
    """Quantiles (2, ..., m) over the last but one axis, of what is not NaN."""
    rows = np.moveaxis(values, -2, 0)
    flat = rows.reshape(len(rows), -1)
    missing = np.isnan(flat).sum(axis=0)
    bounds = np.full((2, flat.shape[1]), np.nan)
    full, some = missing == 0, (missing > 0) & (missing < len(flat))
    bounds[:, full] = np.quantile(flat[:, full], tails, axis=0)
    if some.any():
        bounds[:, some] = np.nanquantile(flat[:, some], tails, axis=0)
    return bounds.reshape(2, *rows.shape[1:])


def _quotient(sums: _Floats, counts: _Floats) -> _Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts


def _plain(names: ArrayLike) -> NDArray[np.generic]:
    """Names as objects where they are variable-width strings, on which numpy's set functions are not safe (2.4)."""
    array = np.asarray(names)
    return array.astype(object) if array.dtype.kind == "T" else array
