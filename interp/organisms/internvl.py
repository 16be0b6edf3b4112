"""The InternVL organism: the picture as tiles, the whole of it last. Random weights."""

from __future__ import annotations

from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)

from interp.organisms.blueprint import CHATML, NORMALISED, chat_template, seeded, text_sizes, tower_sizes
from interp.organisms.tokenizer import build_tokenizer
from interp.processors import without_video

TILE, PATCH, SHUFFLE, TILES = 64, 16, 1.0, 6  # 4 x 4 visual tokens a tile
TOKENS = int(TILE / PATCH * SHUFFLE) ** 2
SPECIAL = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
    **CHATML,
}
CHAT_TEMPLATE = chat_template(
    user="<|im_start|>user\n", end="<|im_end|>\n", reply="<|im_start|>assistant\n", image=SPECIAL["context_image_token"] + "\n"
)


def build(seed: int = 0) -> tuple[InternVLForConditionalGeneration, InternVLProcessor]:
    """An untrained organism and its processor.

    Tower: 4 layers, width 128, 16 patches of 16 px a tile of 64 px, a token each: the pixel shuffle changes nothing, so that the tower of
    `demo/llava` fits. Qwen2 decoder: 8 layers, width 128, 8 heads in 4 groups.
    """
    tokenizer = build_tokenizer(SPECIAL, CHAT_TEMPLATE)
    images = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, min_patches=1, max_patches=TILES, **NORMALISED
    )
    processor = without_video(InternVLProcessor)(
        image_processor=images, tokenizer=tokenizer, image_seq_length=TOKENS, chat_template=CHAT_TEMPLATE
    )
    config = InternVLConfig(
        # Layer scales of 0.1 are for deep towers; four layers so scaled hardly change a patch.
        vision_config=InternVLVisionConfig(
            **tower_sizes(128, 4, [TILE, TILE], [PATCH, PATCH]), attention_bias=True, layer_scale_init_value=1.0
        ),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.vocab[SPECIAL["context_image_token"]],
        image_seq_length=TOKENS,
        downsample_ratio=SHUFFLE,
        tie_word_embeddings=True,
    )
    return seeded(InternVLForConditionalGeneration, config, tokenizer, seed), processor
