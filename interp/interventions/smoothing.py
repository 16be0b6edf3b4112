"""A Gaussian over a painted map, without painting it: between the edges of tokens a map is constant, so the blur is two small products.

Nothing lies outside the picture: what a border reflects (or divides by its own missing share) is attention that was never there, and at
the paper's width, half the shorter side, it carries the peak of a map into the nearest corner, away from the very patch that the model
looked at. With nothing outside the picture the peak stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from interp.geometry import paint

_Floats = NDArray[np.float64]


def blurred(values: _Floats, boxes: _Floats, size: tuple[int, int], sigma: float) -> _Floats:
    """The painted map of tokens, smoothed (paper, Eq. 3), at the pixels' centres.

    Parameters
    ----------
    values, boxes
        (token,) and (token, 4) in pixels of the picture, without NaN. Where boxes overlap their values average.
    size
        Width and height of the picture.
    sigma
        Standard deviation, pixels, above 0.

    Returns
    -------
    (height, width) float64, up to a constant: the lowest value counts as nothing, so that adding a constant to all tokens changes
    nothing.
    """
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    # on the uneven grid between the tokens' own edges every box is a whole number of cells
    places = np.stack([np.searchsorted(edges, boxes[:, k]) for k, edges in enumerate((xs, ys, xs, ys))], axis=1)
    cells = np.nan_to_num(paint(values - values.min(), places, (len(xs) - 1, len(ys) - 1)))
    return _weights(ys, size[1], sigma) @ cells @ _weights(xs, size[0], sigma).T


def _weights(edges: _Floats, pixels: int, sigma: float) -> _Floats:
    """(pixel, cell): the share of a Gaussian around each pixel's centre that falls between two edges."""
    # under a millionth of a pixel nothing is smoothed any more, but a division could overflow
    return np.diff(ndtr((edges[None, :] - (np.arange(pixels)[:, None] + 0.5)) / max(sigma, 1e-6)), axis=1)
