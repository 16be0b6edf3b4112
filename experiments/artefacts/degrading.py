"""Pictures made worse in three ways, at stated levels: Gaussian noise, low resolution, and a random mask of patches.

The paper names the three and the levels 60 % noise and 30 % mask (Fig. 6), not what a level means. Here: the noise has a standard deviation
of so many per cent of the full range of a channel; a resolution is of each side, and the picture is enlarged again, so that boxes keep
their place; a mask covers so many per cent of the patches, squares of a fourteenth of the shorter side, with mid-grey.

What is drawn at random depends on the picture and the seed, and not on the level: a higher level is the same noise, stronger, and a larger
mask holds the smaller one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
from PIL import Image

import interp

LEVELS: dict[str, tuple[float, ...]] = {"noise": (0.0, 0.2, 0.4, 0.6), "resolution": (1.0, 0.5, 0.25), "mask": (0.0, 0.15, 0.3)}
PATCHES = 14  # along the shorter side
_GREY = 128


def degraded(sample: interp.Sample, kind: str, level: float, seed: int) -> interp.Sample:
    """The sample with its pictures worse; at the first level of `LEVELS` they are as they were."""
    pictures = [worse(p, kind, level, _seed(sample, k, seed)) for k, p in enumerate(sample.open_images())]
    return replace(sample, images=tuple(pictures), knobs={**sample.knobs, "degraded": kind, "level": level})


def worse(picture: Image.Image, kind: str, level: float, seed: int) -> Image.Image:
    """One picture, made worse.

    Parameters
    ----------
    picture
        RGB.
    kind, level
        ``noise``: standard deviation, of the full range. ``resolution``: of each side, 1 or less. ``mask``: share of the patches.
    seed
        Of what is drawn at random.
    """
    if level == LEVELS[kind][0]:
        return picture
    rng = np.random.default_rng(seed)
    if kind == "noise":
        pixels = np.asarray(picture, dtype=np.float32)
        grain = rng.standard_normal(pixels.shape, dtype=np.float32)
        return Image.fromarray(np.uint8(np.rint(np.clip(pixels + 255 * np.float32(level) * grain, 0, 255))))
    if kind == "resolution":
        small = [max(1, round(side * level)) for side in picture.size]
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BILINEAR)
    side = max(1, round(min(picture.size) / PATCHES))
    across, down = (math.ceil(length / side) for length in picture.size)
    hidden = np.zeros(across * down, dtype=bool)
    hidden[rng.permutation(hidden.size)[: round(level * hidden.size)]] = True
    covered = np.kron(hidden.reshape(down, across), np.ones((side, side), dtype=bool))[: picture.height, : picture.width]
    pixels = np.array(picture)
    pixels[covered] = _GREY
    return Image.fromarray(pixels)


def named(kind: str, level: float) -> str:
    """``60 %``, or ``1/4`` of the resolution."""
    if kind == "resolution":
        return "1" if level == 1 else f"1/{round(1 / level)}"
    return f"{100 * level:.0f} %"


def _seed(sample: interp.Sample, index: int, seed: int) -> int:
    """Of a picture; samples of one scene are degraded alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample.image_id}/{index}".encode()).digest()[:8])
