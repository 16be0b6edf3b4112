"""Maps to compare a highlight with: the same map elsewhere, and the same dimming without a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from interp.benchmarks.sample import Region, Role
from interp.errors import InterpError

Landing = Role | Literal["background"]


def shift(evidence_map: xr.DataArray, seed: int) -> xr.DataArray:
    """The map moved round the picture's edges, by at least a quarter of each side in either direction: same values, another place.

    Where the model cannot see part of the picture (NaN), the map is moved round the edges of the part it covers, and the rest stays
    NaN. (Holes inside that part, which no known geometry has, would move with the map, so that the values stay the same in any case.)

    Parameters
    ----------
    evidence_map
        (y, x).
    seed
        Chooses the shift.

    Returns
    -------
    xr.DataArray
        (y, x), with `shift_y` and `shift_x` (pixels) in the attributes.

    Raises
    ------
    InterpError
        The map covers less than two pixels along a side.
    """
    values = evidence_map.transpose("y", "x").values
    rows, cols = (np.flatnonzero(~np.isnan(values).all(axis=axis)) for axis in (1, 0))
    part = tuple(slice(found[0], found[-1] + 1) if found.size else slice(0) for found in (rows, cols))
    sides = values[part].shape
    if min(sides) < 2:
        raise InterpError(f"A map that covers {sides[1]} x {sides[0]} pixels cannot be shifted; use a map of a larger picture.")
    rng = np.random.default_rng(seed)
    steps = tuple(int(rng.integers(math.ceil(side / 4), side - math.ceil(side / 4) + 1)) for side in sides)
    moved = values.copy()
    moved[part] = np.roll(values[part], steps, axis=(0, 1))
    result = evidence_map.transpose("y", "x").copy(data=moved)
    return result.assign_attrs(long_name="shifted evidence map", shift_y=steps[0], shift_x=steps[1], seed=seed)


def uniform(evidence_map: xr.DataArray) -> xr.DataArray:
    """A constant map with the mean of `evidence_map` (y, x), so that it dims as much and points nowhere. NaN stays NaN."""
    mean = evidence_map.mean(dtype=np.float64)
    return xr.where(evidence_map.notnull(), mean, np.nan).assign_attrs({**evidence_map.attrs, "long_name": "constant map of equal dimming"})


def peak_role(evidence_map: xr.DataArray, regions: Sequence[Region]) -> Landing:
    """The role of the region in which the map's highest pixel lies, or ``background``.

    Parameters
    ----------
    evidence_map
        (y, x) with the pixels' centres as coordinates.
    regions
        The regions on that picture. Where several hold the peak, evidence comes before anchor and distractor.
    """
    peak = evidence_map.argmax(["y", "x"])
    x, y = (float(evidence_map[axis][peak[axis]]) for axis in ("x", "y"))  # pyright: ignore[reportCallIssue, reportArgumentType]
    found = {r.role for r in regions if r.box[0] <= x < r.box[2] and r.box[1] <= y < r.box[3]}
    order: tuple[Landing, ...] = ("evidence", "anchor", "distractor", "background")
    return next(role for role in order if role in found or role == "background")
