"""Attention on the pixels of the original pictures, where several views of one become one map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, counts_as_evidence
from interp.geometry import coverage, paint

PLACES = ("token_box", "image_index", "image_size", "evidence_box", "evidence_image", "evidence_role")  # what `on_pixels` reads

_AT_ONCE = 1 << 22  # values painted in one go; sums, weights and the result take some 130 MB together

_Floats = NDArray[np.float64]


def on_pixels(one: xr.Dataset, maps: _Floats, rule: OverlapRule) -> Iterator[tuple[NDArray[np.float32], _Floats]]:
    """One sample's `maps` (map, token) painted on its pictures, some at a time, and which pixels are evidence.

    Yields
    ------
    scores, labels
        (map, pixel) and (pixel,), over the pixels of all the sample's pictures: each the area-weighted mean of the tokens that cover it,
        NaN where none with a value does; 1 for evidence by `rule` of the pixel's share, 0 for other pixels, NaN where no token stands for
        the pixel.
    """
    images, boxes = one["image_index"].values, one["token_box"].values
    shown = [int(image) for image in np.unique(images) if image >= 0]
    sizes = {image: (int(one["image_size"].values[image, 0]), int(one["image_size"].values[image, 1])) for image in shown}
    mine = {image: (images == image) & ~np.isnan(boxes[:, 0]) for image in shown}
    labels = np.concatenate([_labels(one, image, boxes[mine[image]], sizes[image], rule) for image in shown])
    step = max(1, _AT_ONCE // labels.size)
    for start in range(0, len(maps), step):
        some = maps[start : start + step].astype(np.float64)
        painted = [paint(some[:, mine[image]], boxes[mine[image]], sizes[image]).reshape(len(some), -1) for image in shown]
        # attention is of single precision, in which equal pixels of one token are equal again
        yield np.concatenate(painted, -1, dtype=np.float32), labels


def _labels(one: xr.Dataset, image: int, boxes: _Floats, size: tuple[int, int], rule: OverlapRule) -> _Floats:
    width, height = size
    here = (one["evidence_role"].values.astype(object) == "evidence") & (one["evidence_image"].values == image)
    marked, x = one["evidence_box"].values[here], np.arange(width)
    rows = [coverage(np.stack([x, np.full(width, y), x + 1, np.full(width, y + 1)], axis=1), marked, size) for y in range(height)]
    stood_for = ~np.isnan(paint(np.zeros(len(boxes)), boxes, size)).ravel()
    return np.where(stood_for, counts_as_evidence(np.concatenate(rows), rule).astype(np.float64), np.nan)
