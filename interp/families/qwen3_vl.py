"""Qwen3-VL: dynamic resolution in cells of 32 pixels. The features added to the first decoder layers are in the same order."""

from __future__ import annotations

from interp.families.dynamic import image_regions
from interp.families.regions import Family

FAMILY = Family("qwen3_vl", image_regions)
