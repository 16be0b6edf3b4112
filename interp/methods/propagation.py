"""Attribution through all layers: how much of each token reaches the last one, by attention rollout or by gradient relevance.

Only the last row of the product of all layers is wanted, so it is carried down from the last layer, a row times a matrix at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from interp.encoding import Encoding
from interp.methods.whole_attention import attention_with_gradients, mean_attention
from interp.vlm import VLM


def rolled_out(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """(token,) the last row of the product over layers of row-normalised ``A + I`` (attention rollout, arXiv 2005.00928).

    `layers` (token, token) in their order, mean over heads. No share of the weights is discarded.
    """
    row = torch.zeros_like(layers[-1][-1])
    row[-1] = 1
    for attention in reversed(layers):
        # a row of A + I divided by its own sum, without a copy of the matrix
        shared = row / (attention.sum(-1) + 1)
        row = shared @ attention + shared
    return row


def relevance(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """(token,) the last row of R - I, made to sum to 1, with ``R <- R + A_bar R`` from ``R = I`` upwards (Chefer et al., arXiv 2103.15679).

    ``A_bar`` is the mean over heads of ``relu(gradient * attention)``; `layers` hold attention and gradient (head, token, token). Zeros
    where nothing is relevant.
    """
    first = torch.zeros_like(layers[-1][0][0, -1])
    first[-1] = 1
    row = first.clone()
    for attention, slope in reversed(layers):
        row = row + row @ (attention * slope).relu().mean(0)
    row = row - first
    total = row.sum()
    return row / total if total > 0 else row


def rollout_map(vlm: VLM, encoding: Encoding) -> NDArray[np.float64]:
    """(token,) of one prompt: `rolled_out` over its layers."""
    return rolled_out([layer.double() for layer in mean_attention(vlm, encoding)]).cpu().numpy()


def relevance_map(vlm: VLM, encoding: Encoding) -> NDArray[np.float64]:
    """(token,) of one prompt: `relevance` of the first answer token's logit."""
    layers = attention_with_gradients(vlm, encoding)
    return relevance([(attention.double(), slope.double()) for attention, slope in layers]).cpu().numpy()
