"""The Qwen3-VL organism: dynamic resolution, features of two tower layers added to the first two decoder layers. Random weights."""

from __future__ import annotations

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from interp.organisms.dynamic import assemble


def build(seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """An untrained organism and its processor.

    Tower: 3 layers, width 96, patches of 8 px merged 2 x 2; the first two also feed the decoder (DeepStack). Decoder: 8 layers, width
    128, 8 heads in 4 groups, queries and keys normalised.
    """
    return assemble(
        (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor),
        seed,
        # 18 x 18 learned positions: those of the largest square picture, interpolated for other shapes
        vision={"num_position_embeddings": 18**2, "deepstack_visual_indexes": [0, 1]},
        # Interleaved over 8 frequencies, 2 is the most that height and width can both have.
        rotary={"mrope_section": [4, 2, 2], "mrope_interleaved": True},
    )
