"""InternVL 3 and 3.5: the picture squashed to a canvas of tiles, read tile by tile; with several tiles the whole picture comes last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.families.processing import setting, width_height
from interp.families.regions import Family, Size, TokenRegions, grid


def _image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas  # here: it brings transformers

    tile = width_height(setting(processor, "size"))
    side = math.isqrt(processor.image_seq_length)
    cell = (tile[0] / side, tile[1] / side)
    most = setting(processor, "max_patches")
    cols, rows = 1, 1
    if setting(processor, "crop_to_patches") and most > 1:
        cols, rows = get_optimal_tiled_canvas((size[1], size[0]), (tile[1], tile[0]), setting(processor, "min_patches"), most)
    scale = (tile[0] * cols / size[0], tile[1] * rows / size[1])
    views = [
        grid(side, side, cell, (tile[0] * (k % cols), tile[1] * (k // cols)), scale, size, view=k, image_index=image_index)
        for k in range(cols * rows)
    ]
    if len(views) > 1:
        whole = (tile[0] / size[0], tile[1] / size[1])
        views.append(grid(side, side, cell, (0, 0), whole, size, view=len(views), image_index=image_index))
    return TokenRegions.join(views)


FAMILY = Family("internvl", _image_regions)
