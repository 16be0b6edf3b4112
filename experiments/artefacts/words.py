"""Means with intervals, in words and as columns of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import binomtest


def bounds(interval: xr.DataArray) -> tuple[float, float]:
    """Lower and upper, of one interval."""
    return float(interval.sel(ci_bound="lower")), float(interval.sel(ci_bound="upper"))


def number(mean: Any, interval: xr.DataArray | None = None, digits: int = 2) -> str:
    """``0.62 [0.58, 0.66]``; none where there is no value."""
    value = float(mean)
    if np.isnan(value):
        return "none"
    return f"{value:.{digits}f}" + ("" if interval is None else _range(bounds(interval), digits, 1))


def percent(mean: Any, interval: xr.DataArray | None = None) -> str:
    """``62.1 % [58.0, 66.2]``; none where there is no value."""
    value = float(mean)
    if np.isnan(value):
        return "none"
    return f"{100 * value:.1f} %" + ("" if interval is None else _range(bounds(interval), 1, 100))


def share(one: xr.Dataset, pictures: int) -> str:
    """``1.4 % [0.5, 2.7]``, of a `mean` with its `interval`. Where none of the `pictures` shows it, drawing them again would give no more
    than none, and the end of the exact interval (Clopper and Pearson, 95 %) stands instead: ``0.0 % (none; at most 1.2 %)``.
    """
    if float(one["mean"]) != 0 or pictures < 1:
        return percent(one["mean"], one["interval"])
    return f"0.0 % (none; at most {100 * binomtest(0, pictures).proportion_ci(0.95).high:.1f} %)"


def p_value(p: Any) -> str:
    """``p = 0.012`` or ``p < 0.001``."""
    value = float(p)
    return "p undefined" if np.isnan(value) else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def cells(found: xr.Dataset, mean: str = "mean", interval: str = "interval") -> dict[str, float]:
    """`mean`, `lower` and `upper` of one point, as columns."""
    low, high = bounds(found[interval])
    return {"mean": float(found[mean]), "lower": low, "upper": high}


def _range(between: tuple[float, float], digits: int, factor: int) -> str:
    low, high = (factor * v for v in between)
    return " [no interval]" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
