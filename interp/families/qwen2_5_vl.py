"""Qwen2.5-VL: dynamic resolution in cells of 28 pixels. The tower's window order is undone before the tokens leave it."""

from __future__ import annotations

from interp.families.dynamic import image_regions
from interp.families.regions import Family

FAMILY = Family("qwen2_5_vl", image_regions)
