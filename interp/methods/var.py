"""Visual Attention Refinement: the answer's own attention, painted over the picture, which is then asked about again (arXiv 2406.10638).

Another method of that name redistributes attention: see `interp.methods.sink_redistribution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve1d

from interp.methods.batch import Batch, Reply
from interp.methods.method import Method
from interp.methods.own_tokens import answer_rows, reaching_layers, visual_tokens
from interp.methods.token_picture import stretched, token_picture

_Floats = NDArray[np.float64]

_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # the usual Gaussian of five pixels
_FACTOR = 2.0
_SHARE = 0.2


def painted_over(picture: Image.Image, attention: _Floats) -> Image.Image:
    """The picture with a colour map of its attention mixed in.

    Parameters
    ----------
    picture
        The original.
    attention
        (height, width) from 0 to 1, of the picture's size; NaN leaves a pixel as it is.

    Returns
    -------
    Image.Image
        RGB: 0.8 of the picture and 0.2 of the inverted, blurred (5 x 5) and doubled map in the colours of `jet`.
    """
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    seen = ~np.isnan(attention)
    inverted = 1 - np.where(seen, attention, 0.0)
    for axis in (0, 1):
        inverted = convolve1d(inverted, _BINOMIAL, axis=axis, mode="mirror")
    mixed = (1 - _SHARE) * pixels + _SHARE * 255 * jet(np.clip(_FACTOR * inverted, 0, 1))
    return Image.fromarray(np.rint(np.where(seen[:, :, None], mixed, pixels)).astype(np.uint8))


def jet(values: _Floats) -> _Floats:
    """Colours (..., 3) from 0 to 1 of values (...) from 0 to 1: dark blue, blue, green, red, dark red."""
    return np.clip(1.5 - np.abs(4 * values[..., None] - np.array([3.0, 2.0, 1.0])), 0, 1)


def _answer(batch: Batch) -> Sequence[Reply]:
    shown = []
    for k, (sample, values) in enumerate(zip(batch.samples, answer_rows(batch, reaching_layers(batch.vlm)[-1]), strict=True)):
        if values is None:
            shown.append(sample)
            continue
        tokens = visual_tokens(batch, k)
        maps = [
            np.clip(token_picture(_of_image(values, tokens["image_index"].values, i), tokens, i), 0, 1) for i in range(len(sample.images))
        ]
        pictures = zip(sample.open_images(), maps, strict=True)
        shown.append(replace(sample, images=tuple(painted_over(picture, one) for picture, one in pictures)))
    replies = batch.ask("base", shown)
    for reply in replies:
        del reply.numbers["mean_gain"]  # this picture is not the original times a gain
    return replies


def _of_image(values: NDArray[np.floating], image_index: NDArray[np.integer], index: int) -> _Floats:
    return stretched(np.where(image_index == index, values, np.nan).astype(np.float64))


VAR = Method(
    "var",
    "picture with the inverted colour map of the base answer's last-layer attention mixed in (0.2), base prompt",
    _answer,
    needs_spoken=True,
    forms=("base",),
)
"""Source: arXiv 2406.10638 and its code, the variant that inverts. First the question is answered; the answer's attention rows, averaged
over its tokens and the heads of the last layer, are stretched from 0 to 1, inverted, resized by cubic splines, blurred, doubled, coloured
and mixed in; then the question is asked again.

Deviations: the map lies on the original picture at its full resolution, view by view (`token_picture`); the end token's row does not
count, and after an empty answer the picture stays as it is; a last layer with a sliding window gives way to the last one without;
several pictures are stretched and painted one by one. (VEA's text describes this method as a binary mask, with no threshold given.)
"""
