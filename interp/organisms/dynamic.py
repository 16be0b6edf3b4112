"""What organisms of dynamic resolution share: patches of 8 px merged 2 x 2, and as many visual tokens as a picture has room for."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2VLImageProcessorPil

from interp.organisms.blueprint import CHATML, NORMALISED, ROPE, chat_template, seeded, text_sizes
from interp.organisms.tokenizer import build_tokenizer
from interp.processors import without_video

PATCH, MERGE, FRAMES = 8, 2, 2
FEWEST, MOST = 96 * 96, 144 * 144  # pixels of a picture after resizing: 36 to 81 visual tokens
_MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
CHAT_TEMPLATE = chat_template(
    user="<|im_start|>user\n",
    end="<|im_end|>\n",
    reply="<|im_start|>assistant\n",
    image="<|vision_start|><|image_pad|><|vision_end|>",
)


def assemble(
    kinds: tuple[type[Any], type[Any], type[Any]], seed: int, *, vision: dict[str, Any], rotary: dict[str, Any]
) -> tuple[Any, Any]:
    """A model and its processor.

    Parameters
    ----------
    kinds
        The family's classes: configuration, model, processor.
    vision
        What the family's tower has beside 3 layers of width 96 with 4 heads.
    rotary
        How the decoder's 8 rotary frequencies are shared among time, height and width.
    """
    configuration, model, processor = kinds
    tokenizer = build_tokenizer({**_MARKS, **CHATML}, CHAT_TEMPLATE)
    text = text_sizes(tokenizer)
    tower = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "out_hidden_size": text["hidden_size"],
    }
    config = configuration(
        vision_config={**tower, **vision},
        text_config={**text, "rope_parameters": {**ROPE, **rotary}},
        tie_word_embeddings=True,
        **{f"{role}_id": tokenizer.vocab[token] for role, token in _MARKS.items()},
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        size={"shortest_edge": FEWEST, "longest_edge": MOST},
        **NORMALISED,
    )
    made = without_video(processor)(image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)
    return seeded(model, config, tokenizer, seed), made
