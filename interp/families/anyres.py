"""Anyres: the whole picture squashed to a square first, then a canvas of tiles, as one grid with a newline token after every row.

The canvas is the pinpoint that keeps most of the picture; the picture is fitted into it and centred, and rows and columns of padding are
left out afterwards, whole features at a time. Where patches do not fill a tile (SigLIP 384/14 covers 378 of 384 pixels), the strip at the
right and the bottom of *every* tile is seen by no token of the grid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.families.processing import setting, width_height
from interp.families.regions import Size, TokenRegions, grid, lattice, no_region

_RESAMPLED_ABOVE = 1.1  # times the largest edge: the models' own constant


def base(size: Size, edge: int, patch: int, image_index: int) -> TokenRegions:
    """The whole picture, squashed to `edge` x `edge`."""
    side = edge // patch
    scale = (edge / size[0], edge / size[1])
    return grid(side, side, (patch, patch), (0, 0), scale, size, image_index=image_index)


def tiles(processor: Any, config: Any, size: Size, image_index: int, most: int | None = None) -> TokenRegions:
    """The grid of tiles and its newlines.

    Parameters
    ----------
    most
        With more features than so many tiles hold, the grid is resampled bilinearly to fewer.
    """
    from transformers.image_processing_utils import select_best_resolution  # here: geometry alone needs no transformers

    width, height = size
    edge, patch = width_height(setting(processor, "size"))[0], config.vision_config.patch_size
    side = edge // patch
    canvas_height, canvas_width = select_best_resolution((height, width), list(setting(processor, "image_grid_pinpoints")))
    if canvas_width / width < canvas_height / height:
        fitted = (canvas_width, min(math.ceil(height * (canvas_width / width)), canvas_height))
    else:
        fitted = (min(math.ceil(width * (canvas_height / height)), canvas_width), canvas_height)
    across = _kept(canvas_width // edge * side, canvas_height // edge * side, width, height)
    down = _kept(canvas_height // edge * side, canvas_width // edge * side, height, width)
    n_cols, n_rows = across[1] - across[0], down[1] - down[0]
    if most is not None and (ratio := math.sqrt(n_rows * n_cols / (most * side**2))) > _RESAMPLED_ABOVE:
        n_rows, n_cols = int(n_rows // ratio), int(n_cols // ratio)
    scale = (fitted[0] / width, fitted[1] / height)
    columns = (_extents(*across, n_cols, side, edge, patch) - (canvas_width - fitted[0]) // 2) / scale[0]
    rows = (_extents(*down, n_rows, side, edge, patch) - (canvas_height - fitted[1]) // 2) / scale[1]
    cells = lattice(columns, rows, scale, size, view=1, image_index=image_index)
    lines = [no_region(0, image_index=image_index)]  # of a very wide picture every row is padding
    for row in range(n_rows):
        lines += [_part(cells, slice(row * n_cols, (row + 1) * n_cols)), no_region(1, image_index=image_index)]
    return TokenRegions.join(lines)


def _kept(features: int, other: int, length: int, other_length: int) -> tuple[int, int]:
    """First and last feature along one axis of the canvas that are not padding, by the models' own rounding."""
    if length / other_length >= features / other:  # this axis is filled
        return 0, features
    padding = (features - int(round(length * (other / other_length), 7))) // 2
    return padding, features - padding


def _extents(first: int, last: int, count: int, side: int, edge: int, patch: int) -> NDArray[np.float64]:
    """(count, 2) begin and end, canvas pixels, of features `first` to `last` resampled to `count`."""
    length = last - first
    if count == length:
        low = high = np.arange(first, last)
    else:
        # bilinear, half-pixel centres: each new feature mixes the two old ones around its place
        # (rounded, for a place that is a whole number but for the last bits has no second feature)
        place = np.clip(np.round((np.arange(count) + 0.5) * (length / count) - 0.5, 6), 0, None)
        low = np.floor(place).astype(int)
        high = np.minimum(low + (place > low), length - 1)
        low, high = low + first, high + first

    def begin(feature: NDArray[Any]) -> NDArray[Any]:
        return feature // side * edge + feature % side * patch

    return np.stack([begin(low), begin(high) + patch], axis=1).astype(np.float64)


def _part(regions: TokenRegions, where: slice) -> TokenRegions:
    return TokenRegions(*(getattr(regions, name)[where] for name in ("boxes", "scale", "view", "row", "col", "image_index")))
