"""Equations 2 to 4 of the paper, with every fault of the authors' code as a switch: all of them on is their code, none is the paper's text.

The paper leaves open what lies beyond a border; with no fault, nothing does. Numpy and scipy.ndimage only, and nothing of `interp`: this
is what the package's own two variants are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter, maximum_filter

Floats = NDArray[np.float64]
Faults = frozenset[str]

BORDER, ADJACENT, REFLECTION, CONSTANT, TRUNCATION = "border", "adjacent", "reflection", "constant", "truncation"
ALL: Faults = frozenset({BORDER, ADJACENT, REFLECTION, CONSTANT, TRUNCATION})
NONE: Faults = frozenset()

_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)  # the eight neighbours of a cell
_FLAT = 1e-6  # relative spread under which attention, kept in single precision, is constant


@dataclass(frozen=True)
class View:
    """One grid of attention (row, column) and where it lies on the picture: x0, x1 of every column and y0, y1 of every row, pixels."""

    grid: Floats
    columns: Floats
    rows: Floats


def without_spikes(grid: Floats, lam: float, faults: Faults = NONE) -> Floats:
    """Equation 2: a cell above `lam` times the largest of its neighbours becomes their mean.

    `border`: the edge is repeated, so that a border cell is its own neighbour and never a spike; grids under 3 x 3 are skipped.
    `adjacent`: two touching spikes hide each other; without it they fall where both stand above everything around the pair.
    """
    result = _single_border(grid, lam) if BORDER in faults else _single(grid, lam)
    if ADJACENT not in faults:
        for cell, other in _touching(grid.shape):
            around, mine = _around(grid, cell, other), _around(grid, cell) - {other}
            if around and min(grid[cell], grid[other]) > lam * max(grid[place] for place in around):
                result[cell] = np.mean([grid[place] for place in mine]) if mine else max(grid[place] for place in around)
    return result


def _single_border(grid: Floats, lam: float) -> Floats:
    if min(grid.shape) < 3:
        return grid.copy()
    largest = maximum_filter(grid, footprint=_RING, mode="nearest")
    return np.where(grid > lam * largest, convolve(grid, _RING / 8, mode="nearest"), grid)


def _single(grid: Floats, lam: float) -> Floats:
    largest = maximum_filter(grid, footprint=_RING, mode="constant", cval=-np.inf)
    number = convolve(np.ones_like(grid), _RING.astype(float), mode="constant")
    mean = convolve(grid, _RING.astype(float), mode="constant") / np.maximum(number, 1)
    return np.where((number > 0) & (grid > lam * np.where(number > 0, largest, 0)), mean, grid)


def _around(grid: Floats, *cells: tuple[int, int]) -> set[tuple[int, int]]:
    near = {(r + down, c + right) for r, c in cells for down in (-1, 0, 1) for right in (-1, 0, 1)}
    return {(r, c) for r, c in near if 0 <= r < grid.shape[0] and 0 <= c < grid.shape[1]} - set(cells)


def _touching(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Every cell with each of its neighbours."""
    empty = np.empty(shape)
    for row, col in np.ndindex(*shape):
        yield from (((row, col), other) for other in _around(empty, (row, col)))


def painted(views: Sequence[View], size: tuple[int, int]) -> Floats:
    """The grids on the pixels (height, width) of a picture of `size` (width, height), averaged by area where they meet; NaN beyond."""
    width, height = size
    total, weight = np.zeros((height, width)), np.zeros((height, width))
    for view in views:
        along_x, along_y = _overlaps(view.columns, width), _overlaps(view.rows, height)
        total += along_y @ view.grid @ along_x.T
        weight += np.outer(along_y.sum(axis=1), along_x.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def _overlaps(spans: Floats, pixels: int) -> Floats:
    """(pixel, span): how much of each pixel a span covers."""
    at = np.arange(pixels)[:, None]
    return np.clip(np.minimum(at + 1, spans[:, 1]) - np.maximum(at, spans[:, 0]), 0, None)


def smoothed(views: Sequence[View], size: tuple[int, int], sigma: float, faults: Faults = NONE) -> Floats:
    """Equation 3: a Gaussian of `sigma` pixels. `reflection`: the map is mirrored at its ends; without it there is nothing beyond them."""
    values = painted(views, size)
    seen = ~np.isnan(values)
    if REFLECTION in faults:
        rows, cols = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
        part = np.ix_(np.arange(rows[0], rows[-1] + 1), np.arange(cols[0], cols[-1] + 1))
        values[part] = gaussian_filter(np.nan_to_num(values[part]), sigma, mode="reflect")
        return np.where(seen, values, np.nan)
    lowest = min(float(view.grid.min()) for view in views)
    blurred = np.where(seen, values - lowest, 0)
    for axis, pixels in enumerate(blurred.shape):  # a kernel from end to end leaves nothing out
        blurred = gaussian_filter(blurred, sigma, mode="constant", radius=pixels, axes=(axis,))
    return np.where(seen, blurred, np.nan)


def evidence(views: Sequence[View], size: tuple[int, int], sigma: float = 0.5, lam: float = 10.0, faults: Faults = NONE) -> Floats:
    """Equations 2 and 3, stretched from 0 to 1 over the picture's shown part; `sigma` in shorter sides.

    `constant`: a constant map becomes zeros, so that the whole picture is dimmed; without it, ones.
    """
    calm = [View(without_spikes(view.grid, lam, faults), view.columns, view.rows) for view in views]
    values = np.concatenate([view.grid.ravel() for view in calm])
    flat = np.ptp(values) <= _FLAT * np.abs(values).max()
    found = painted(calm, size) if flat or not sigma else smoothed(calm, size, sigma * min(size), faults)
    low, high = np.nanmin(found), np.nanmax(found)
    if flat or high <= low:
        return np.where(np.isnan(found), np.nan, 0.0 if CONSTANT in faults else 1.0)
    return (found - low) / (high - low)


def shown(pixels: NDArray[np.uint8], weights: Floats, alpha: float = 0.5, faults: Faults = NONE) -> NDArray[np.uint8]:
    """Equation 4 on (height, width, 3); what no grid reaches stays. `truncation`: grey levels are cut off; without it, rounded."""
    gains = alpha + (1 - alpha) * np.where(np.isnan(weights), 1, weights)
    exact = gains[:, :, None] * pixels
    return (exact if TRUNCATION in faults else np.rint(exact)).astype(np.uint8)


def rendered(pixels: NDArray[np.uint8], mean: float = 0.5, std: float = 0.25) -> NDArray[np.uint8]:
    """What comes back when a processor's picture is de-normalised and cut off to whole grey levels, as theirs is before it is shown."""
    normalised = (pixels.astype(np.float32) / 255 - mean) / std
    return np.clip((normalised * std + mean) * 255, 0, 255).astype(np.uint8)
