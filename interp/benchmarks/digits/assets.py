"""The real material of the `digits` scenes, divided among the splits once: handwriting and photographs that come with scikit-learn.

Handwriting: `load_digits`, 1,797 glyphs of 8 x 8 (UCI Optical Recognition of Handwritten Digits). Photographs: `load_sample_images`,
two of 427 x 640 pixels. No glyph and no photograph pixel is shared between splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SPLITS = ("train", "validation", "profile", "test")
_GLYPHS_PER_CLASS = {"validation": 18, "profile": 18, "test": 40}  # of about 180; the rest trains
_PHOTO_REGIONS: dict[str, tuple[tuple[int, tuple[int, int, int, int]], ...]] = {  # (photograph, box): disjoint by construction
    "train": ((0, (0, 0, 384, 427)), (1, (0, 0, 320, 427))),
    "validation": ((0, (384, 0, 640, 213)),),
    "profile": ((0, (384, 213, 640, 427)),),
    "test": ((1, (320, 0, 640, 427)),),
}


@dataclass(frozen=True)
class Material:
    """What one split may use: `glyphs` (n, 8, 8) float in [0, 1] (1 = ink) with `labels` (n,), and photograph parts."""

    glyphs: np.ndarray
    labels: np.ndarray
    glyph_ids: np.ndarray
    photos: tuple[Image.Image, ...]

    def of_digit(self, digit: int) -> np.ndarray:
        """Indices into `glyphs` of every glyph of `digit`."""
        return self._by_digit[digit]

    @cached_property
    def _by_digit(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.labels == digit) for digit in range(10)]


@cache
def material(split: str) -> Material:
    """The glyphs and photograph parts of `split` (one of `SPLITS`)."""
    pixels, labels = (np.asarray(each) for each in load_digits(return_X_y=True))
    chosen = np.sort(np.concatenate([_glyph_ids(labels, digit)[split] for digit in range(10)]))
    photographs = load_sample_images().images
    parts = tuple(Image.fromarray(photographs[which]).crop(box) for which, box in _PHOTO_REGIONS[split])
    return Material(pixels[chosen].reshape(-1, 8, 8) / 16.0, labels[chosen], chosen, parts)


def _glyph_ids(labels: np.ndarray, digit: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng([20251020, digit]).permutation(np.flatnonzero(labels == digit))
    cuts = np.cumsum(list(_GLYPHS_PER_CLASS.values()))
    parts = np.split(order, cuts)
    return dict(zip((*_GLYPHS_PER_CLASS, "train"), parts, strict=True))
