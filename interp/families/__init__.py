"""Model families. Each is one file with one fact: which region of the original picture each visual token stands for.

To add a family: write ``interp/families/NAME.py`` with a ``FAMILY = Family(model_type, image_regions)``, list it in `_FAMILIES`, and
prove it with the oracle in ``tests/test_geometry_oracle.py``.
"""

from __future__ import annotations

from typing import Any

from interp.errors import ModelError
from interp.families import gemma3, internvl, llava, llava_next, llava_onevision, qwen2_5_vl, qwen3_vl
from interp.families.regions import Family, Size, TokenRegions

_FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY for module in (llava, llava_next, llava_onevision, qwen2_5_vl, qwen3_vl, gemma3, internvl)
}

__all__ = ["Family", "Size", "TokenRegions", "family_for", "family_names"]


def family_names() -> tuple[str, ...]:
    """The `model_type` of every supported family."""
    return tuple(_FAMILIES)


def family_for(config: Any) -> Family:
    """The family of a Hugging Face configuration, by its `model_type`.

    Raises
    ------
    ModelError
        No family is known for this `model_type`.
    """
    model_type = getattr(config, "model_type", "")
    family = _FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"Model type {model_type!r} is not a supported vision-language family ({', '.join(_FAMILIES)}); "
            "add one file to interp/families that says which image region each visual token stands for, as 'Adding a family' in "
            "CONTRIBUTING.md shows."
        )
    return family
