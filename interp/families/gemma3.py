"""Gemma 3: the picture squashed to a square and pooled to 16 x 16; with pan-and-scan, crops of an elongated one follow, squashed too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.families.processing import setting, width_height
from interp.families.regions import Family, Size, TokenRegions, grid

Crop = tuple[int, int, int, int]  # left, top, width, height


def _crops(processor: Any, size: Size) -> list[Crop]:
    """The crops of pan-and-scan along the longer edge: none for a picture that is nearly square or whose crops would be too small."""
    if not setting(processor, "do_pan_and_scan"):
        return []
    smallest, most, ratio = (
        setting(processor, f"pan_and_scan_{name}") for name in ("min_crop_size", "max_num_crops", "min_ratio_to_activate")
    )
    width, height = size
    longer, shorter = max(size), min(size)
    if longer / shorter < ratio:
        return []
    count = min(max(2, min(longer // smallest, math.floor(longer / shorter + 0.5))), most)
    length = math.ceil(longer / count)
    if min(length, shorter) < smallest:
        return []
    starts = [length * i for i in range(count)]
    if width >= height:
        return [(start, 0, min(length, width - start), height) for start in starts]
    return [(0, start, width, min(length, height - start)) for start in starts]


def _image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    side = math.isqrt(config.mm_tokens_per_image)
    edge = width_height(setting(processor, "size"))
    cell = (edge[0] / side, edge[1] / side)
    views = []
    for view, (left, top, width, height) in enumerate([(0, 0, *size), *_crops(processor, size)]):
        scale = (edge[0] / width, edge[1] / height)
        origin = (left * scale[0], top * scale[1])
        views.append(grid(side, side, cell, origin, scale, size, view=view, image_index=image_index))
    return TokenRegions.join(views)


FAMILY = Family("gemma3", _image_regions)
