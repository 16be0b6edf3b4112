"""The LLaVA organism: transformers' own LLaVA-1.5 classes at a small size. Random weights; `training` makes them an organism."""

from __future__ import annotations

from typing import Any

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from interp.organisms.blueprint import NORMALISED, seeded, text_sizes, tower_sizes
from interp.organisms.tokenizer import build_tokenizer

IMAGE = "<image>"
IMAGE_SIZE, PATCH = 128, 16  # 8 x 8 visual tokens

# LLaVA-1.5's conversation form; the items of a turn are joined by line breaks in the order given, so both prompt orders work.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image>{% else %}{{ item['text'] }}{% endif %}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'user' %} {% else %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained organism and its processor.

    CLIP tower: 4 layers, width 128, 64 patches of 16 px at 128 px. Llama decoder: 8 layers, width 128, 8 heads in 4 groups.
    """
    tokenizer = build_tokenizer({"image_token": IMAGE}, CHAT_TEMPLATE)
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, **NORMALISED)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    text: dict[str, Any] = text_sizes(tokenizer) | {"max_position_embeddings": 1024}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower_sizes(128, 4, IMAGE_SIZE, PATCH)),
        text_config=LlamaConfig(**text),
        image_token_index=tokenizer.vocab[IMAGE],
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    return seeded(LlavaForConditionalGeneration, config, tokenizer, seed), processor
