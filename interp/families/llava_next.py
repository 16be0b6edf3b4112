"""LLaVA-NeXT: the whole picture squashed to a square, then the tiles of its best resolution, rows ended by a newline token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.families.anyres import base, tiles
from interp.families.processing import setting, width_height
from interp.families.regions import Family, Size, TokenRegions


def _image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    edge, patch = width_height(setting(processor, "size"))[0], config.vision_config.patch_size
    return TokenRegions.join([base(size, edge, patch, image_index), tiles(processor, config, size, image_index)])


FAMILY = Family("llava_next", _image_regions)
