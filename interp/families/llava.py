"""LLaVA-1.5: the shortest edge is resized, the centre is cropped, and one row-major grid of patches remains.

What the crop removes reaches no token (half of a 2:1 picture). All numbers are read from the image processor and the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from interp.errors import ModelError
from interp.families.processing import edges, setting, width_height
from interp.families.regions import Family, Size, TokenRegions, grid, no_region

_PATCH_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # extra tokens a tower puts before its patches (the class token)


def _resized(size: Size, target: Mapping[str, int]) -> Size:
    """Width and height after the image processor's resize, with its own rounding (the long edge is truncated)."""
    width, height = size
    edge = target.get("shortest_edge")
    if edge is None:
        return target["width"], target["height"]
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def _padded(processor: Any, size: Size) -> tuple[Size, Size]:
    """Width and height before the resize, and where the picture lies in them: some processors pad to a square first, if told to."""
    if not (hasattr(processor.image_processor, "pad_to_square") and setting(processor, "do_pad")):
        return size, (0, 0)
    longest = max(size)
    return (longest, longest), ((longest - size[0]) // 2, (longest - size[1]) // 2)


def _crop_origin(length: int, crop: int, floors: bool) -> int:
    """First kept pixel along one axis; negative where the picture is smaller than the crop and is padded.

    The two image backends of transformers put the odd pixel of a padding on different sides (`floors`: the PIL one).
    """
    if length >= crop or floors:
        return (length - crop) // 2
    return -((crop - length) // 2)


def _image_regions(processor: Any, config: Any, size: Size, image_index: int, inputs: Mapping[str, NDArray[Any]]) -> TokenRegions:
    tower = config.vision_config.model_type
    if tower not in _PATCH_TOWERS:
        raise ModelError(f"Vision tower {tower!r} of this LLaVA model is not supported; use one with {' or '.join(_PATCH_TOWERS)}.")
    whole, offset = _padded(processor, size)
    resized = _resized(whole, edges(setting(processor, "size"))) if setting(processor, "do_resize") else whole
    seen, origin = resized, (0.0, 0.0)
    if setting(processor, "do_center_crop"):
        seen = width_height(setting(processor, "crop_size"))
        floors = type(processor.image_processor).__name__.endswith("Pil")
        origin = (_crop_origin(resized[0], seen[0], floors), _crop_origin(resized[1], seen[1], floors))
    patch = config.vision_config.patch_size
    scale = (resized[0] / whole[0], resized[1] / whole[1])
    origin = (origin[0] - offset[0] * scale[0], origin[1] - offset[1] * scale[1])
    patches = grid(seen[1] // patch, seen[0] // patch, (patch, patch), origin, scale, size, image_index=image_index)
    extra = _PATCH_TOWERS[tower] if config.vision_feature_select_strategy == "full" else _PATCH_TOWERS[tower] - 1
    if extra < 0:
        raise ModelError(
            "This LLaVA model drops the first patch of a tower without class token; set vision_feature_select_strategy='full'."
        )
    return TokenRegions.join([no_region(extra, image_index=image_index), patches])


FAMILY = Family("llava", _image_regions)
