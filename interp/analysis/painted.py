"""Attention on the pixels of the original pictures, where several views of one become one map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, counts_as_evidence
from interp.geometry import coverage, paint

PLACES = ("token_box", "image_index", "image_size", "evidence_box", "evidence_image", "evidence_role")  # what `on_pixels` reads

_AT_ONCE = 1 << 24  # values painted in one go: 128 MB

_Floats = NDArray[np.float64]


def on_pixels(one: xr.Dataset, attention: xr.DataArray, rule: OverlapRule) -> Iterator[tuple[xr.DataArray, xr.DataArray]]:
    """One sample's `attention` (layer, ..., token) painted on its pictures, some layers at a time, and which pixels are evidence.

    Yields
    ------
    scores, labels
        (layer, ..., token) and (token,), where `token` counts the pixels of all the sample's pictures: each pixel the area-weighted mean of
        the tokens that cover it, NaN where none with a value does; 1 for evidence by `rule` of the pixel's share, 0 for other pixels, NaN
        where no token stands for the pixel.
    """
    images, boxes = one["image_index"].values, one["token_box"].values
    shown = [int(image) for image in np.unique(images) if image >= 0]
    sizes = {image: tuple(int(side) for side in one["image_size"].values[image]) for image in shown}
    mine = {image: (images == image) & ~np.isnan(boxes[:, 0]) for image in shown}
    labels = xr.DataArray(np.concatenate([_labels(one, image, boxes[mine[image]], sizes[image], rule) for image in shown]), dims="token")
    maps = attention.values.astype(np.float64)
    step = max(1, int(_AT_ONCE / (maps[:1, ..., 0].size * labels.size)))
    bare = attention.isel(token=0, drop=True)
    for start in range(0, len(maps), step):
        some = maps[start : start + step]
        painted = [paint(some[..., mine[image]], boxes[mine[image]], sizes[image]).reshape(*some.shape[:-1], -1) for image in shown]
        # attention is of single precision, in which equal pixels of one token are equal again
        yield (
            bare[start : start + step].expand_dims(token=labels.size, axis=-1).copy(data=np.concatenate(painted, -1, dtype=np.float32)),
            labels,
        )


def _labels(one: xr.Dataset, image: int, boxes: _Floats, size: tuple[int, int], rule: OverlapRule) -> _Floats:
    width, height = size
    y, x = (each.ravel() for each in np.mgrid[:height, :width])
    here = (one["evidence_role"].values.astype(object) == "evidence") & (one["evidence_image"].values == image)
    share = coverage(np.stack([x, y, x + 1, y + 1], axis=1), one["evidence_box"].values[here], size)
    stood_for = ~np.isnan(paint(np.zeros(len(boxes)), boxes, size)).ravel()
    return np.where(stood_for, counts_as_evidence(share, rule).astype(np.float64), np.nan)
