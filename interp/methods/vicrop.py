"""ViCrop by relative attention: what the question makes the model look at is shown once more, and larger (arXiv 2502.17422)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.geometry import paint
from interp.methods.batch import Batch, Reply
from interp.methods.method import Method
from interp.methods.own_tokens import last_rows, last_rows_under, middle_layer, visual_tokens
from interp.methods.trained import TWO_IMAGES

_Floats = NDArray[np.float64]

WINDOW = 336  # pixels, the smallest window's side on a large picture
RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

PixelBox = tuple[int, int, int, int]


def best_window(attention: _Floats, stride: tuple[int, int], side: float) -> PixelBox:
    """The window in which relative attention stands out most.

    For each size the position with the largest sum is taken; of these, the one whose sum exceeds the mean of its (up to four) neighbouring
    positions by most, per area.

    Parameters
    ----------
    attention
        (height, width), one value per pixel.
    stride
        Pixels from one position to the next, along x and y.
    side
        Of the smallest window; the others are 1.2 to 2 times as large. A window is cut to the picture.

    Returns
    -------
    (x0, y0, x1, y1) in pixels.
    """
    height, width = attention.shape
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = attention.cumsum(0).cumsum(1)
    found: list[tuple[float, PixelBox]] = []
    for ratio in RATIOS:
        across, down = (min(round(side * ratio), whole) for whole in (width, height))
        if found and (across, down) == (width, height):
            continue  # the whole picture has no neighbours to stand out from
        xs, ys = (_positions(whole, part, step) for whole, part, step in ((width, across, stride[0]), (height, down, stride[1])))
        sums = total[np.ix_(ys + down, xs + across)] - total[np.ix_(ys, xs + across)] - total[np.ix_(ys + down, xs)] + total[np.ix_(ys, xs)]
        y, x = (int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [sums[at] for at in beside if 0 <= at[0] < sums.shape[0] and 0 <= at[1] < sums.shape[1]]
        contrast = (sums[y, x] - np.mean(near)) / (across * down) if near else 0.0
        found.append((float(contrast), (int(xs[x]), int(ys[y]), int(xs[x]) + across, int(ys[y]) + down)))
    return max(found, key=lambda one: one[0])[1]


def _positions(whole: int, part: int, step: int) -> NDArray[np.int64]:
    """Where windows begin along an axis; the last one ends with the picture."""
    return np.unique(np.append(np.arange(0, whole - part + 1, step), whole - part))


def _crops(sample: Sample, relative: _Floats, tokens: dict[str, NDArray[np.generic]]) -> list[Image.Image]:
    crops = []
    for index, picture in enumerate(sample.open_images()):
        mine = tokens["image_index"] == index
        boxes = np.asarray(tokens["token_box"], dtype=np.float64)[mine]
        painted = np.nan_to_num(paint(relative[mine], boxes, picture.size))
        stride = tuple(max(1, round(float(np.median(boxes[:, axis + 2] - boxes[:, axis])))) for axis in (0, 1))
        crops.append(picture.crop(best_window(painted, (stride[0], stride[1]), min(WINDOW, min(picture.size) / 2))))
    return crops


def _answer(batch: Batch) -> Sequence[Reply]:
    layer = middle_layer(batch.vlm)
    shown = []
    pairs = zip(last_rows(batch, layer), last_rows_under(batch, "describe", layer), strict=True)
    for k, (sample, (asked, described)) in enumerate(zip(batch.samples, pairs, strict=True)):
        tokens = visual_tokens(batch, k)
        named = {name: tokens[name].values for name in ("image_index", "token_box")}
        crops = _crops(sample, relative_attention(asked, described), named)
        shown.append(replace(sample, images=(*sample.open_images(), *crops)))
    replies = batch.ask("base", shown)
    for reply in replies:
        del reply.numbers["mean_gain"]  # nothing is dimmed
    return replies


def relative_attention(asked: NDArray[np.floating], described: NDArray[np.floating]) -> _Floats:
    """Attention under the question over that under a general description, token by token; 0 where neither looks."""
    floor = np.finfo(np.float32).tiny
    return np.asarray(asked, dtype=np.float64) / np.maximum(np.asarray(described, dtype=np.float64), floor)


VICROP = Method(
    "vicrop",
    "original picture, then the window of it with the largest relative attention (question over general description), base prompt",
    _answer,
    forms=("base", "describe", TWO_IMAGES),
)
"""Source: arXiv 2502.17422 and its code, the variant rel-att: attention of the last prompt token, mean over heads at one layer, of the
question divided by that of "Write a general description of the image."; windows of 336 pixels times 1 to 2; the crop is a second picture.

Deviations: the layer is the middle one that no sliding window cuts off (the source names one per model, at 0.4 to 0.6 of the depth); the
question's attention is that of the base prompt; on a picture whose shorter side is under 672 pixels windows begin at half of it, since
336 pixels would often be all of it; sums are over pixels, at a stride of one token, so that tokens of any view count; the wording is the
base prompt's, without "using a single word or phrase". Of several pictures each is cropped by itself.

Cost: the question's attention is from the prefill that `base` answers from, unless another model attributes: that prefill keeps no rows.
"""
