"""Values of visual tokens as a smooth picture of the original's size: what methods do that resize a grid of attention by cubic splines.

Each view's grid is resized by itself onto the part of the picture it shows; where views overlap they average.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from interp.geometry import paint

_Floats = NDArray[np.float64]


def token_picture(values: ArrayLike, tokens: xr.Dataset, image_index: int = 0) -> _Floats:
    """(height, width) of the original picture; NaN where no token stands for a pixel.

    Parameters
    ----------
    values
        (token,) one per token of `tokens`; a NaN counts as its view's lowest value.
    tokens
        Where they are: `token_box` (token, corner) in pixels, `view`, `row`, `col`, `image_index` (token,), `image_size` (image, axis).
    image_index
        Which picture.
    """
    boxes = tokens["token_box"].values
    mine = (tokens["image_index"].values == image_index) & ~np.isnan(boxes[:, 0])
    chosen, boxes = np.asarray(values, dtype=np.float64)[mine], boxes[mine]
    view, row, col = (tokens[name].values[mine] for name in ("view", "row", "col"))
    width, height = (int(side) for side in tokens["image_size"].values[image_index])
    total, number = np.zeros((height, width)), np.zeros((height, width))
    for one in np.unique(view):
        here = view == one
        shown = ~np.isnan(paint(np.ones(here.sum()), boxes[here], (width, height)))
        resized = _resized(chosen[here], boxes[here], row[here], col[here], (width, height))
        total, number = total + np.where(shown, resized, 0.0), number + shown
    with np.errstate(invalid="ignore"):
        return total / number


def _resized(values: _Floats, boxes: _Floats, row: NDArray[np.integer], col: NDArray[np.integer], size: tuple[int, int]) -> _Floats:
    lowest = np.nanmin(values) if (~np.isnan(values)).any() else 0.0
    row, col = row - row.min(), col - col.min()
    grid = np.full((row.max() + 1, col.max() + 1), lowest)
    grid[row, col] = np.where(np.isnan(values), lowest, values)
    places = [
        _places(place, (boxes[:, first] + boxes[:, first + 2]) / 2, pixels)
        for place, first, pixels in ((row, 1, size[1]), (col, 0, size[0]))
    ]
    return map_coordinates(grid, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest")


def _places(index: NDArray[np.integer], centres: _Floats, pixels: int) -> _Floats:
    """(pixel,) where each pixel's centre is on an axis of the grid; beyond the outermost centres, on these."""
    known = np.unique(index)
    return np.interp(np.arange(pixels) + 0.5, [centres[index == one].mean() for one in known], known)


def stretched(picture: _Floats) -> _Floats:
    """From 0 to 1 over what is not NaN; zeros where it is constant."""
    low, high = np.nanmin(picture), np.nanmax(picture)
    return (picture - low) / (high - low) if high > low else np.where(np.isnan(picture), np.nan, 0.0)
