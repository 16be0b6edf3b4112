"""The LLaVA-NeXT organism: the whole picture, then tiles of it row by row with a newline token after each row. Random weights."""

from __future__ import annotations

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from interp.organisms.blueprint import NORMALISED, seeded, text_sizes, tower_sizes
from interp.organisms.llava import CHAT_TEMPLATE, IMAGE  # LLaVA-NeXT's own on a Llama decoder
from interp.organisms.tokenizer import build_tokenizer

TILE, PATCH = 64, 16  # 4 x 4 visual tokens a tile
PINPOINTS = [[64, 128], [128, 64], [128, 128], [64, 192], [192, 64], [128, 192], [192, 128]]  # canvases of tiles, (height, width)


def build(seed: int = 0) -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor]:
    """An untrained organism and its processor.

    CLIP tower: 4 layers, width 128, 16 patches of 16 px a tile of 64 px. Llama decoder: 8 layers, width 128, 8 heads in 4 groups.
    """
    tokenizer = build_tokenizer({"image_token": IMAGE}, CHAT_TEMPLATE)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS, **NORMALISED
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**tower_sizes(128, 4, TILE, PATCH)),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=tokenizer.vocab[IMAGE],
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(TILE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return seeded(LlavaNextForConditionalGeneration, config, tokenizer, seed), processor
