"""Spikes: cells of an attention grid that stand far above everything around them (paper, Eq. 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]

# The eight directions, each followed four places later by its opposite.
_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def replace_spikes(grid: _Floats, lam: float) -> _Floats:
    """The grid (row, column) with every spike replaced by the mean of the cells around it.

    A spike is a cell above `lam` times the largest of its neighbours (Eq. 2). A cell on the border simply has fewer neighbours, so that a
    spike there goes too, and so in a grid of any size. Attention sinks also come in twos, each hiding the other from that rule; so two
    touching cells are spikes as well where both stand above `lam` times everything around the pair, and then neither counts in the
    other's mean. Three or more high cells together are kept: evidence looks like that.

    Parameters
    ----------
    grid
        Attention of one view's tokens, 0 or more; NaN where there is no token.
    lam
        The factor, at least 1; the paper's is 10.

    Returns
    -------
    (row, column) float64. A cell, or a pair, with nothing around it is kept: there is nothing it could stand above.
    """
    around = np.stack([_moved(grid, direction, np.nan) for direction in _DIRECTIONS])
    present = ~np.isnan(around)
    heights = np.where(present, around, -np.inf)
    single = present.any(axis=0) & (grid > lam * heights.max(axis=0))
    result = np.where(single, _mean(around, present), grid)
    for direction, step in enumerate(_DIRECTIONS):
        opposite = (direction + 4) % 8
        mine = np.delete(heights, direction, axis=0).max(axis=0)
        partners = _moved(np.delete(heights, opposite, axis=0).max(axis=0), step, -np.inf)
        ring = np.maximum(mine, partners)
        pair = np.isfinite(ring) & (np.minimum(grid, heights[direction]) > lam * np.maximum(ring, 0))
        others = present.copy()
        others[direction] = False
        # at the end of a single row only the partner has a further neighbour, and the ring is that neighbour
        result = np.where(pair, np.where(others.any(axis=0), _mean(around, others), ring), result)
    return result


def _moved(grid: _Floats, step: tuple[int, int], fill: float) -> _Floats:
    """What stands one `step` (down, right) from each cell; `fill` beyond the border."""
    padded = np.pad(grid, 1, constant_values=fill)
    (rows, cols), (down, right) = grid.shape, step
    return padded[1 + down : 1 + down + rows, 1 + right : 1 + right + cols]


def _mean(around: _Floats, chosen: NDArray[np.bool_]) -> _Floats:
    return np.where(chosen, around, 0.0).sum(axis=0) / np.maximum(chosen.sum(axis=0), 1)
