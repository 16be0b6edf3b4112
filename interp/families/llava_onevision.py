"""LLaVA-OneVision: as LLaVA-NeXT, its grid resampled above nine tiles; several pictures in one prompt are shown as squares only.

A single picture is squashed to the square of its first view. Each of several pictures is padded to a square instead, and has no tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.families.anyres import base, tiles
from interp.families.processing import setting, width_height
from interp.families.regions import Family, Size, TokenRegions, grid, no_region


def _image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    edge, patch = width_height(setting(processor, "size"))[0], config.vision_config.patch_size
    if int(inputs["batch_num_images"].sum()) > 1:
        longest = max(size)
        scale, side = edge / longest, edge // patch
        origin = tuple(-((longest - length) // 2) * scale for length in size)
        seen = grid(side, side, (patch, patch), (origin[0], origin[1]), (scale, scale), size, image_index=image_index)
        return TokenRegions.join([seen, no_region(1, image_index=image_index)])
    most = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    return TokenRegions.join([base(size, edge, patch, image_index), tiles(processor, config, size, image_index, most)])


FAMILY = Family("llava_onevision", _image_regions)
