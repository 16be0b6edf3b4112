"""The LLaVA-OneVision organism: tiles with row newlines on a SigLIP tower; several pictures in one prompt have no tiles. Random weights."""

from __future__ import annotations

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from interp.organisms.blueprint import CHATML, NORMALISED, chat_template, seeded, text_sizes, tower_sizes
from interp.organisms.tokenizer import build_tokenizer
from interp.processors import without_video

TILE, PATCH = 64, 16  # 4 x 4 visual tokens a tile
PINPOINTS = [[64, 64], [64, 128], [128, 64], [128, 128], [64, 192], [192, 64], [128, 192], [192, 128]]  # canvases of tiles, (height, width)
SPECIAL = {"image_token": "<image>", "video_token": "<video>", **CHATML}
CHAT_TEMPLATE = chat_template(
    user="<|im_start|>user ", end="<|im_end|>", reply="<|im_start|>assistant\n", image=SPECIAL["image_token"], before_text="\n"
)


def build(seed: int = 0) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """An untrained organism and its processor.

    SigLIP tower: 4 layers, width 128, 16 patches of 16 px a tile of 64 px. Qwen2 decoder: 8 layers, width 128, 8 heads in 4 groups.
    """
    tokenizer = build_tokenizer(SPECIAL, CHAT_TEMPLATE)
    processor = without_video(LlavaOnevisionProcessor)(
        image_processor=LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS, **NORMALISED),
        tokenizer=tokenizer,
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **tower_sizes(128, 4, TILE, PATCH)),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=tokenizer.vocab[SPECIAL["image_token"]],
        video_token_index=tokenizer.vocab[SPECIAL["video_token"]],
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    return seeded(LlavaOnevisionForConditionalGeneration, config, tokenizer, seed), processor
