"""For every family, a small random model and its processor, from configurations in memory.

Sizes follow from two numbers, the picture's edge and the patch's, as the family's released checkpoints have them; the four levers that
released sizes need (a strip no patch covers, tiles, newlines, merged patches) are all there.
`RELEASED` holds the released sizes themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from interp.processors import without_video
from interp.testing.words import chat_template, tokenizer

Built = tuple[Any, Any]


def _text(words: Any, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,  # not hidden / heads, as in several real models
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        **changes,
    }


def _tower(image: Any, patch: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": image,
        "patch_size": patch,
    }


def _square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


def _model(kind: type[Any], config: Any) -> Any:
    return kind._from_config(config, attn_implementation="sdpa")


def llava(text: dict[str, Any], image: int, patch: int) -> Built:
    """LLaVA-1.5: CLIP with a class token, shortest edge resized, centre cropped."""
    words = tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_tower(image, patch)),
        text_config=transformers.LlamaConfig(**_text(words, **text)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size=_square(image)),
        tokenizer=words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(" <image>"),
    )
    return _model(transformers.LlavaForConditionalGeneration, config), processor


def llava_next(text: dict[str, Any], image: int, patch: int) -> Built:
    """LLaVA-NeXT: the whole picture, then a grid of tiles with a newline after each row."""
    words = tokenizer()
    pinpoints = [[image, 2 * image], [2 * image, image], [2 * image, 2 * image], [3 * image, image], [image, 3 * image]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_tower(image, patch)),
        text_config=transformers.MistralConfig(**_text(words, sliding_window=None, **text)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": image}, crop_size=_square(image), image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(" <image>"),
    )
    return _model(transformers.LlavaNextForConditionalGeneration, config), processor


def llava_onevision(text: dict[str, Any], image: int, patch: int, strip: int = 2, most: int = 4) -> Built:
    """LLaVA-OneVision: as NeXT on SigLIP, whose patches leave a strip of every tile unseen; above nine tiles the grid is resampled.

    `strip` is how wide that strip is, pixels, and `most` how many tiles an edge may have.
    """
    image += strip  # not a multiple of the patch, as 384 is not one of 14
    words = tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[image * i, image * j] for i in range(1, most + 1) for j in range(1, most + 1)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **_tower(image, patch)),
        text_config=transformers.Qwen2Config(**_text(words, **text)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    processor = without_video(transformers.LlavaOnevisionProcessor)(
        image_processor=transformers.LlavaOnevisionImageProcessorPil(size=_square(image), image_grid_pinpoints=pinpoints),
        tokenizer=words,
        num_image_tokens=(image // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat_template(" <image>"),
    )
    return _model(transformers.LlavaOnevisionForConditionalGeneration, config), processor


_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}


def _qwen(
    config: type[Any],
    model: type[Any],
    processor: type[Any],
    text: dict[str, Any],
    vision: dict[str, Any],
    cell: int,
    pixels: tuple[int, int] | None,
) -> Built:
    words = tokenizer(**_QWEN)
    fewest, most = pixels or ((4 * cell) ** 2, (16 * cell) ** 2)
    made = config(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": cell,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": text.get("hidden_size", 64),
            **vision,
        },
        text_config=_text(words, **text),
        **{f"{name}_id" if name.endswith("token") else f"{name}_token_id": words.convert_tokens_to_ids(t) for name, t in _QWEN.items()},
    )
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=cell,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": fewest, "longest_edge": most},
    )
    placeholder = " <|vision_start|><|image_pad|><|vision_end|>"
    return _model(model, made), without_video(processor)(image_processor=images, tokenizer=words, chat_template=chat_template(placeholder))


def _rotary(share: float, text: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Rotary sections for time, height and width: `share` of half a head for time, the rest split evenly."""
    half = text["head_dim"] // 2
    time = int(half * share)
    side = (half - time) // 2
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [half - 2 * side, side, side], **more}


def qwen2_5_vl(text: dict[str, Any], image: int, patch: int, cell: int = 0, pixels: tuple[int, int] | None = None) -> Built:
    """Qwen2.5-VL: dynamic resolution, 2 x 2 patches merged, windowed vision attention, positions in three dimensions.

    `cell` is the edge of a patch before merging (about half of `patch` by default), `pixels` the fewest and the most of a picture.
    """
    del image
    cell = cell or patch // 2 + 1  # 14 makes 8, 7 makes 4
    # heads of this family are hidden / heads wide
    text = {"num_attention_heads": 4, "hidden_size": 64, **text}
    text = {**text, "head_dim": text["hidden_size"] // text["num_attention_heads"]}
    return _qwen(
        transformers.Qwen2_5_VLConfig,
        transformers.Qwen2_5_VLForConditionalGeneration,
        transformers.Qwen2_5_VLProcessor,
        {"rope_parameters": _rotary(0.25, text), **text},
        {"window_size": 4 * cell, "fullatt_block_indexes": [1]},
        cell,
        pixels,
    )


def qwen3_vl(text: dict[str, Any], image: int, patch: int, cell: int = 0, pixels: tuple[int, int] | None = None) -> Built:
    """Qwen3-VL: as 2.5, with normalised queries and keys and vision features added to the first decoder layers."""
    del image
    cell = cell or patch // 2 + 1
    text = {"head_dim": 24, **text}
    return _qwen(
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLForConditionalGeneration,
        transformers.Qwen3VLProcessor,
        {"rope_parameters": _rotary(0.34, text, mrope_interleaved=True), **text},
        {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        cell,
        pixels,
    )


def gemma3(text: dict[str, Any], image: int, patch: int, pool: int = 2) -> Built:
    """Gemma 3: squashed to a square, pooled `pool` x `pool`; sliding layers that miss the picture; picture tokens see each other."""
    special = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(**special)
    ids = {f"{name}_index": words.convert_tokens_to_ids(token) for name, token in special.items()}
    layers = text.get("num_hidden_layers", 4)
    kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(layers)]
    per_edge = image // patch // pool
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **_tower(image, patch)),
        mm_tokens_per_image=per_edge**2,
        text_config=transformers.Gemma3TextConfig(**_text(words, query_pre_attn_scalar=12, sliding_window=8, layer_types=kinds, **text)),
        **ids,
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size=_square(image)),
        tokenizer=words,
        image_seq_length=per_edge**2,
        chat_template=chat_template(" <start_of_image>"),
    )
    return _model(transformers.Gemma3ForConditionalGeneration, config), processor


def gemma3_pan_and_scan(text: dict[str, Any], image: int, patch: int, pool: int = 2, shortest: int = 0) -> Built:
    """Gemma 3 that also looks at crops of elongated pictures; `shortest` is a crop's shortest edge (half of `image` by default)."""
    model, processor = gemma3(text, image, patch, pool)
    processor.images_kwargs = {**processor.images_kwargs, "do_pan_and_scan": True, "pan_and_scan_min_crop_size": shortest or image // 2}
    return model, processor


def internvl(text: dict[str, Any], image: int, patch: int, tiles: int = 6, words_model: type[Any] = transformers.Qwen2Config) -> Built:
    """InternVL 3: squashed to a canvas of at most `tiles` tiles, the thumbnail last, 2 x 2 patches shuffled into one."""
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(**special)
    config = transformers.InternVLConfig(
        vision_config=_tower([image, image], [patch, patch]),
        text_config=words_model(**_text(words, **text)),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(image // patch // 2) ** 2,
        downsample_ratio=0.5,
    )
    images = transformers.GotOcr2ImageProcessorPil(size=_square(image), crop_to_patches=True, min_patches=1, max_patches=tiles)
    processor = without_video(transformers.InternVLProcessor)(
        image_processor=images,
        tokenizer=words,
        image_seq_length=(image // patch // 2) ** 2,
        chat_template=chat_template(" <IMG_CONTEXT>"),
    )
    return _model(transformers.InternVLForConditionalGeneration, config), processor


def internvl3_5(text: dict[str, Any], image: int, patch: int, tiles: int = 6) -> Built:
    """InternVL 3.5: as 3, on a decoder with normalised queries and keys."""
    return internvl(text, image, patch, tiles, transformers.Qwen3Config)


BUILDERS: dict[str, Callable[..., Built]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "gemma3": gemma3,
    "gemma3_pan_and_scan": gemma3_pan_and_scan,
    "internvl": internvl,
    "internvl3_5": internvl3_5,
}

# What the released checkpoints do with a picture, as arguments of the builders.
RELEASED: dict[str, dict[str, Any]] = {
    "llava": {"image": 336, "patch": 14},
    "llava_next": {"image": 336, "patch": 14},
    "llava_onevision": {"image": 378, "patch": 14, "strip": 6, "most": 6},
    "qwen2_5_vl": {"image": 0, "patch": 0, "cell": 14, "pixels": (56 * 56, 16384 * 28 * 28)},
    "qwen3_vl": {"image": 0, "patch": 0, "cell": 16, "pixels": (256 * 256, 4096 * 4096)},
    "gemma3": {"image": 896, "patch": 14, "pool": 4},
    "gemma3_pan_and_scan": {"image": 896, "patch": 14, "pool": 4, "shortest": 256},
    "internvl": {"image": 448, "patch": 14, "tiles": 12},
    "internvl3_5": {"image": 448, "patch": 14, "tiles": 12},
}
