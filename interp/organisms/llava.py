"""The LLaVA organism: transformers' own LLaVA-1.5 classes at a small size. Random weights; `training` makes them an organism."""

from __future__ import annotations

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from interp.organisms.tokenizer import BOS, EOS, PAD, build_tokenizer

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
    pad, bos, eos, image = (tokenizer.vocab[token] for token in (PAD, BOS, EOS, IMAGE))
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=IMAGE_SIZE, patch_size=PATCH
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # with bfloat16 autocast the faster one to train on a CPU
    model.generation_config.pad_token_id = pad
    model.generation_config.eos_token_id = eos
    return model, processor
