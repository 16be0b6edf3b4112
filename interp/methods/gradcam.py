"""GradCAM of an answer: attention of the last prompt token times what the answer's probability gains from it, at one layer.

A weight of the last row can reach the answer through the last position alone, and only from its own layer on. So one row is kept as a
variable, in the fast path, and the gradient begins at its layer; nothing of the size of the full attention is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture.attention import LAST, attention_rows, switched
from interp.decoding import Run
from interp.encoding import Encoding
from interp.vlm import VLM

IMPLEMENTATION = "interp_gradcam"


@dataclass(eq=False)
class _Row:
    """The last row at one layer (batch, head, 1, key), a variable once the layer has run."""

    layer: int
    weights: torch.Tensor = field(init=False)


def gradcam_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    gradcam: _Row | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls: sdpa, with the last row of one layer as a variable."""
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if gradcam is None or gradcam.layer != module.layer_idx:
        return output, None
    scaling = kwargs.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    row = attention_rows(query, key, attention_mask, scaling, LAST, kwargs.get("sliding_window")).detach().requires_grad_()
    gradcam.weights = row
    batch, heads, _, keys = row.shape
    groups = key.shape[1]
    made = row.reshape(batch, groups, heads // groups, keys) @ value.detach().to(row.dtype)
    made = made.reshape(batch, 1, heads, -1).to(output.dtype)
    return torch.cat([output[:, :-1], made], dim=1), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, gradcam_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)


def gradcam(vlm: VLM, encodings: Sequence[Encoding], layer: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Attention times its positive gradient, of the log-probability of the model's own first answer token.

    Parameters
    ----------
    vlm
        The model, as it is.
    encodings
        Prompts, which run as one batch.
    layer
        Whose attention.

    Returns
    -------
    tuple
        Per prompt (token,): the mean over heads of ``attention * relu(gradient)``; and (prompt,) the probability of that token.

    Raises
    ------
    InterpError
        The model is edited.
    """
    vlm.refuse_edits("GradCAM")
    row = _Row(layer)
    run = Run.start(vlm.hf_model, vlm.batch(encodings), use_cache=False)
    with switched(vlm.hf_model, IMPLEMENTATION), frozen(vlm.hf_model), torch.enable_grad():
        outputs = vlm.hf_model(**run.prefill_inputs(), gradcam=row, logits_to_keep=1, return_dict=True)
        best = outputs.logits[:, -1].float().log_softmax(-1).amax(-1)
        (slope,) = torch.autograd.grad(best.sum(), row.weights)
    found = (row.weights * slope.relu()).detach().mean(1)[:, 0].double().cpu().numpy()
    # prompts are padded on the left
    return [one[-len(encoding) :] for one, encoding in zip(found, encodings, strict=True)], best.detach().exp().double().cpu().numpy()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No gradient of any weight: a graph then begins where a variable is put in, and not in the vision tower."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
