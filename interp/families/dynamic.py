"""Dynamic resolution: the picture is resized to whole cells of merged patches, about its own shape, and nothing is cut or padded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.families.regions import Size, TokenRegions, grid


def image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    """One row-major grid; its size is what the processor itself wrote down (frame, row and column patches)."""
    patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
    _, rows, cols = (int(n) for n in inputs["image_grid_thw"][image_index])
    scale = (cols * patch / size[0], rows * patch / size[1])
    return grid(rows // merge, cols // merge, (patch * merge, patch * merge), (0, 0), scale, size, image_index=image_index)
