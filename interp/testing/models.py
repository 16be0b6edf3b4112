"""Random models of every family: tiny ones for tests, larger ones for measurements."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from interp.errors import InterpError
from interp.testing.builders import BUILDERS, RELEASED, Built
from interp.vlm import VLM

TINY = tuple(BUILDERS)  # what `tiny_vlm` and `bench_model` can build


def tiny_vlm(
    family: str = "llava",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    prompt_order: Any = "image-first",
    sizes: Literal["tiny", "released"] = "tiny",
    **text: Any,
) -> VLM:
    """A random model of a family: 4 layers, 4 heads over 2 key-value heads, and some 4 to 200 visual tokens a picture.

    Parameters
    ----------
    family
        One of `TINY`: a `model_type`, or a variant of one.
    seed
        Seeds the weights.
    sizes
        ``released``: pictures, patches and tiles are as large and as many as the released checkpoints' (hundreds to thousands of visual
        tokens); the model stays narrow and shallow.
    text
        Overrides of the text configuration (for example ``num_key_value_heads=4``).

    Raises
    ------
    InterpError
        There is no builder for `family`, or no such sizes.
    """
    if sizes not in ("tiny", "released"):
        raise InterpError(f"Sizes {sizes!r} are unknown; use tiny or released.")
    model, processor = _built(family, text, **(RELEASED.get(family, {}) if sizes == "released" else {"image": 28, "patch": 7}))
    _randomise(model, seed)
    return VLM(model.to(dtype), processor, prompt_order, name=f"{sizes}/{family}")


def bench_model(family: str = "llava", seed: int = 0) -> VLM:
    """The model that performance is measured on: text hidden 512, 8 layers, 8 heads, float32; 64 visual tokens a picture in `llava`.

    Raises
    ------
    InterpError
        There is no builder for `family`.
    """
    text = {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
    }
    model, processor = _built(family, text, image=112, patch=14)
    _randomise(model, seed)
    return VLM(model, processor, name=f"bench/{family}")


def _built(family: str, text: dict[str, Any], **sizes: Any) -> Built:
    if family not in BUILDERS:
        raise InterpError(f"No small model of family {family!r}; use one of {', '.join(BUILDERS)}.")
    return BUILDERS[family](text, **sizes)


def _randomise(model: Any, seed: int, sharpness: float = 4.0) -> None:
    """Weights that keep activations of size one, with query and key of the decoder scaled so that its attention is peaky."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if weight.ndim >= 2:
                weight.copy_(noise / math.sqrt(math.prod(weight.shape[1:])))
            elif "norm" in name and name.endswith("weight"):
                weight.add_(0.3 * noise)
            elif "lambda" in name:  # how much of a branch a vision layer adds
                weight.fill_(0.5)
            else:
                weight.copy_(noise if name.endswith(("class_embedding", "cls_token", "image_newline")) else 0.1 * noise)
            if "language_model" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(math.sqrt(sharpness))
    model.eval()
