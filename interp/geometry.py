"""Areas, exactly: how much of a token's region is evidence, and how much of the evidence the model can see at all.

All boxes are ``(x0, y0, x1, y1)`` in pixels of one original picture. Numpy only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Visibility = Literal["visible", "cut", "too_small", "lost", "none"]
SMALLEST_READABLE = 8.0  # processed pixels: the shorter side under which evidence counts as too small

_ORDER: tuple[Visibility, ...] = ("visible", "cut", "too_small", "lost")
_Floats = NDArray[np.float64]


def area(boxes: ArrayLike) -> _Floats:
    """Areas (n,) of boxes (n, 4); 0 for an empty box, NaN for a NaN one."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 0.0)
    return sides[:, 0] * sides[:, 1]


def overlap_with_union(boxes: ArrayLike, union: ArrayLike) -> _Floats:
    """Areas (n,) of each of `boxes` (n, 4) that lie inside the union of the boxes `union` (k, 4).

    Exact: the union is cut into the cells between its own edges, so that overlapping boxes count once.
    """
    tokens = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    parts = np.asarray(union, dtype=np.float64).reshape(-1, 4)
    if len(parts) == 0:
        return np.where(np.isnan(tokens[:, 0]), np.nan, 0.0)
    xs, ys = np.unique(parts[:, [0, 2]]), np.unique(parts[:, [1, 3]])
    in_x = (parts[:, :1] <= xs[:-1]) & (xs[1:] <= parts[:, 2:3])
    in_y = (parts[:, 1:2] <= ys[:-1]) & (ys[1:] <= parts[:, 3:])
    covered = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0).astype(np.float64)
    along_x = np.maximum(np.minimum(tokens[:, 2:3], xs[1:]) - np.maximum(tokens[:, :1], xs[:-1]), 0.0)
    along_y = np.maximum(np.minimum(tokens[:, 3:], ys[1:]) - np.maximum(tokens[:, 1:2], ys[:-1]), 0.0)
    return np.einsum("iy,yx,ix->i", along_y, covered, along_x)


def coverage(boxes: ArrayLike, union: ArrayLike, size: tuple[int, int]) -> _Floats:
    """Share (n,) in [0, 1] of each token's region, clipped to the picture of `size` (width, height), that is inside `union`.

    NaN for a token without a region. The overlap rules of the literature ("any", "half", "all") are thresholds on this number.
    """
    clipped = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, (*size, *size))
    whole = area(clipped)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, np.minimum(overlap_with_union(clipped, union) / whole, 1.0), np.nan)


def visibility(evidence: ArrayLike, boxes: ArrayLike, scale: ArrayLike, size: tuple[int, int]) -> Visibility:
    """What the model's own preprocessing leaves of the evidence: the worst case among its boxes.

    Parameters
    ----------
    evidence
        (k, 4) evidence boxes on one picture of `size` (width, height); none gives ``"none"``.
    boxes, scale
        (n, 4) regions of the picture's visual tokens, and (n, 2) processed pixels per original pixel there.

    Returns
    -------
    visible
        All of it reaches some token, the shorter side is at least 8 processed pixels in some view.
    cut
        Part of it reaches no token.
    too_small
        The shorter side of what is kept is under 8 processed pixels in every view.
    lost
        Nothing of it reaches a token.
    """
    marked = np.clip(np.asarray(evidence, dtype=np.float64).reshape(-1, 4), 0.0, (*size, *size))
    regions, scales = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(scale, dtype=np.float64).reshape(-1, 2)
    real = ~np.isnan(regions[:, 0])
    regions, scales = regions[real], scales[real]
    states: list[Visibility] = [_visibility_of(box, regions, scales) for box in marked]
    return max(states, key=_ORDER.index) if states else "none"


def _visibility_of(box: _Floats, regions: _Floats, scales: _Floats) -> Visibility:
    low, high = np.maximum(regions[:, :2], box[:2]), np.minimum(regions[:, 2:], box[2:])
    hit = (high > low).all(axis=1)
    if not hit.any():
        return "lost"
    # Views (tiles, a thumbnail) differ in scale, so the kept extent is measured per scale and the sharpest one decides.
    sharpest = 0.0
    for factor in np.unique(scales[hit], axis=0):
        view = hit & (scales == factor).all(axis=1)
        sharpest = max(sharpest, float(((high[view].max(axis=0) - low[view].min(axis=0)) * factor).min()))
    if sharpest < SMALLEST_READABLE:
        return "too_small"
    kept = overlap_with_union(box, regions)[0]
    return "visible" if kept >= area(box)[0] * (1 - 1e-9) else "cut"


def paint(values: ArrayLike, boxes: ArrayLike, size: tuple[int, int]) -> _Floats:
    """Maps (..., height, width) on a picture of `size` (width, height): each pixel the area-weighted mean of the tokens that cover it.

    Each of `values` (..., n) is spread evenly over its region in `boxes` (n, 4); where regions overlap their values average, and pixels
    that no token with a value stands for are NaN.
    """
    width, height = size
    tokens = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(tokens)
    total, weight = np.zeros((*tokens.shape[:-1], height, width)), np.zeros((*tokens.shape[:-1], height, width))
    xs, ys = np.arange(width), np.arange(height)
    for value, real, (x0, y0, x1, y1) in zip(
        np.moveaxis(np.where(known, tokens, 0.0), -1, 0), np.moveaxis(known, -1, 0), np.asarray(boxes, dtype=np.float64), strict=True
    ):
        if np.isnan(x0) or not real.any():
            continue
        columns, rows = slice(max(0, int(x0)), min(width, int(np.ceil(x1)))), slice(max(0, int(y0)), min(height, int(np.ceil(y1))))
        along_x = np.clip(np.minimum(xs[columns] + 1, x1) - np.maximum(xs[columns], x0), 0, None)
        along_y = np.clip(np.minimum(ys[rows] + 1, y1) - np.maximum(ys[rows], y0), 0, None)
        share = real[..., None, None] * (along_y[:, None] * along_x[None, :])
        total[..., rows, columns] += value[..., None, None] * share
        weight[..., rows, columns] += share
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, total / weight, np.nan)
