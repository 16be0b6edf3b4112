"""The Qwen2.5-VL organism: dynamic resolution, a tower that attends in windows, positions in three dimensions. Random weights."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from interp.organisms.dynamic import assemble

WINDOW = 80  # pixels: 5 x 5 visual tokens, so that a picture has four or six


def build(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """An untrained organism and its processor.

    Tower: 3 layers, width 96, patches of 8 px merged 2 x 2; the middle layer sees the whole picture and lets windows meet, the others
    see one window. Decoder: 8 layers, width 128, 8 heads in 4 groups.
    """
    return assemble(
        (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
        seed,
        vision={"window_size": WINDOW, "fullatt_block_indexes": [1]},
        rotary={"mrope_section": [2, 3, 3]},
    )
