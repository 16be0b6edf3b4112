"""The full attention of every layer, with a graph behind it if wanted: what attribution through all layers is made of.

It is an attention implementation of its own, made of the plain products. One prompt at a time: its matrices take
``layers * heads * tokens ** 2`` numbers, and with a graph several times that.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture.attention import attention_rows, switched
from interp.decoding import Run
from interp.encoding import Encoding
from interp.methods.gradcam import frozen
from interp.vlm import VLM

IMPLEMENTATION = "interp_whole"


@dataclass(eq=False)
class _Layers:
    """What each layer leaves: its weights (head, query, key), or their mean over heads."""

    mean: bool
    kept: list[torch.Tensor] = field(default_factory=list)


def whole_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    whole: _Layers | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls."""
    batch, heads, steps, features = query.shape
    groups = key.shape[1]
    scaling = kwargs.get("scaling")
    scaling = features**-0.5 if scaling is None else scaling
    rows = torch.arange(steps, device=query.device).expand(batch, -1)
    weights = attention_rows(query, key, attention_mask, scaling, rows, kwargs.get("sliding_window"))
    if whole is not None:
        if not whole.mean and not weights.requires_grad:
            weights.requires_grad_()
        whole.kept.append(weights[0].mean(0) if whole.mean else weights)
    made = weights.reshape(batch, groups, heads // groups * steps, -1) @ value.to(weights.dtype)
    return made.reshape(batch, heads, steps, -1).transpose(1, 2).to(query.dtype).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, whole_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)


def mean_attention(vlm: VLM, encoding: Encoding) -> list[torch.Tensor]:
    """Per layer, (query, key): the mean over heads.

    Raises
    ------
    InterpError
        The model is edited.
    """
    return _run(vlm, encoding, _Layers(mean=True))[0]


def attention_with_gradients(vlm: VLM, encoding: Encoding) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer, (head, query, key): the weights, and the gradient in them of the logit of the first answer token.

    Raises
    ------
    InterpError
        The model is edited.
    """
    layers, logits = _run(vlm, encoding, _Layers(mean=False))
    slopes = torch.autograd.grad(logits[0, -1].float().amax(), layers)
    return [(weights.detach()[0], slope[0]) for weights, slope in zip(layers, slopes, strict=True)]


def _run(vlm: VLM, encoding: Encoding, whole: _Layers) -> tuple[list[torch.Tensor], torch.Tensor]:
    vlm.refuse_edits("attribution through all layers")
    run = Run.start(vlm.hf_model, vlm.batch([encoding]), use_cache=False)
    with switched(vlm.hf_model, IMPLEMENTATION), frozen(vlm.hf_model), torch.no_grad() if whole.mean else nullcontext():
        outputs = vlm.hf_model(**run.prefill_inputs(), whole=whole, logits_to_keep=1, return_dict=True)
    return whole.kept, outputs.logits
