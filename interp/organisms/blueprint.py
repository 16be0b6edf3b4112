"""What organisms of different families have in common: one decoder size, one normalisation of pictures, one way to write a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from interp.organisms.tokenizer import BOS, EOS, PAD

NORMALISED: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
CHATML = {"turn_start": "<|im_start|>", "turn_end": "<|im_end|>"}  # marks of a turn, shared by several families
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def text_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Settings of every decoder: 8 layers of width 128, 8 heads of 16 in 4 groups, embeddings tied to the output head."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "rope_parameters": dict(ROPE),
        **{f"{name}_token_id": tokenizer.vocab[token] for name, token in {"pad": PAD, "bos": BOS, "eos": EOS}.items()},
    }


def tower_sizes(width: int, depth: int, image: Any, patch: Any) -> dict[str, Any]:
    """Settings of a vision tower of `depth` layers with 4 heads, for pictures or tiles of `image` pixels in patches of `patch`."""
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "image_size": image,
        "patch_size": patch,
    }


_VIDEO = {
    "InternVLProcessor": "InternVLVideoProcessor",
    "LlavaOnevisionProcessor": "LlavaOnevisionVideoProcessor",
    "Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen3VLProcessor": "Qwen3VLVideoProcessor",
}
_SHARED = ("image_mean", "image_std", "merge_size", "patch_size", "size", "temporal_patch_size")


def name_video_part(folder: Path) -> None:
    """Write into a saved processor's settings which video part its class asks for, with the sizes that pictures have.

    It was built and saved without that part, which needs torchvision; where torchvision works, transformers loads the processor by itself
    only if the part is named.
    """
    path = folder / "processor_config.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    kind = _VIDEO.get(known["processor_class"])
    if kind is None:
        return
    sizes = {name: value for name, value in known["image_processor"].items() if name in _SHARED}
    path.write_text(json.dumps({**known, "video_processor": {"video_processor_type": kind, **sizes}}, indent=2) + "\n", encoding="utf-8")


def chat_template(*, user: str, end: str, reply: str, image: str, before_text: str = "") -> str:
    """A chat template in which the items of a turn stand in the order given, so that both prompt orders work.

    Answers begin with a space, which makes each of their words the one token that it is elsewhere, and end with EOS, as they are learned.

    Parameters
    ----------
    user, end
        What is written before and after a user's turn.
    reply
        What an assistant's turn begins with: the generation prompt.
    image, before_text
        What stands for a picture, and what before each text.
    """
    items = (
        "{% for item in message['content'] %}"
        f"{{% if item['type'] == 'image' %}}{_say(image)}{{% else %}}{_say(before_text)}{{{{ item['text'] }}}}{{% endif %}}"
        "{% endfor %}"
    )
    return (
        "{% for message in messages %}"
        f"{{% if message['role'] == 'user' %}}{_say(user)}{items}{_say(end)}"
        f"{{% else %}}{_say(reply + ' ')}{{% for item in message['content'] %}}{{{{ item['text'] }}}}{{% endfor %}}{_say(EOS)}{{% endif %}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{_say(reply)}{{% endif %}}"
    )


def _say(text: str) -> str:
    """`text` as an expression: a line break after a tag would be dropped."""
    return f"{{{{ {json.dumps(text)} }}}}"


def seeded(kind: type[Any], config: Any, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A model of class `kind` with random weights that follow from `seed`, ready to be trained."""
    torch.manual_seed(seed)
    model = kind(config)
    model.set_attn_implementation("eager")  # with bfloat16 autocast the faster one to train on a CPU
    model.generation_config.pad_token_id = tokenizer.vocab[PAD]
    model.generation_config.eos_token_id = tokenizer.vocab[EOS]
    return model
