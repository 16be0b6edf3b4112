"""The Gemma 3 organism: mostly sliding-window layers that miss the picture, and picture tokens that see each other. Random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from interp.organisms.blueprint import NORMALISED, ROPE, chat_template, seeded, text_sizes, tower_sizes
from interp.organisms.tokenizer import build_tokenizer

IMAGE_SIZE, PATCH, TOKENS = 128, 16, 64  # of smaller patches a tower that knows no distances is slow to read
WINDOW = 48  # tokens: fewer than stand between a picture and the end of the benchmark's prompt
_MARKS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
SPECIAL = {**_MARKS, "turn_start": "<start_of_turn>", "turn_end": "<end_of_turn>"}
CHAT_TEMPLATE = chat_template(
    user="<start_of_turn>user\n", end="<end_of_turn>\n", reply="<start_of_turn>model\n", image=SPECIAL["boi_token"]
)


def build(seed: int = 0) -> tuple[Gemma3ForConditionalGeneration, Gemma3Processor]:
    """An untrained organism and its processor.

    SigLIP tower: 4 layers, width 128, 64 patches of 16 px at 128 px, a token each. Decoder: 8 layers, width 128, 8 heads in 4 groups,
    queries and keys normalised; the third and the sixth layer see everything, the others the last 48 tokens.
    """
    tokenizer = build_tokenizer(SPECIAL, CHAT_TEMPLATE)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, **NORMALISED),
        tokenizer=tokenizer,
        image_seq_length=TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
    text = text_sizes(tokenizer)
    kinds = ["full_attention" if layer % 3 == 2 else "sliding_attention" for layer in range(text["num_hidden_layers"])]
    text |= {
        "rope_parameters": {kind: dict(ROPE) for kind in ("full_attention", "sliding_attention")},
        "query_pre_attn_scalar": text["head_dim"],
        "sliding_window": WINDOW,
        "layer_types": kinds,
    }
    ids: dict[str, Any] = {f"{role}_index": tokenizer.vocab[token] for role, token in _MARKS.items()}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(vision_use_head=False, **tower_sizes(128, 4, IMAGE_SIZE, PATCH)),
        text_config=Gemma3TextConfig(**text),
        mm_tokens_per_image=TOKENS,
        tie_word_embeddings=True,
        **ids,
    )
    model = seeded(Gemma3ForConditionalGeneration, config, tokenizer, seed)
    # transformers leaves this at zero, to be loaded: no picture would reach the decoder, and no gradient the tower.
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.02)
    return model, processor
