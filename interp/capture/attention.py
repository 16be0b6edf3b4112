"""Attention rows from the fast path: scaled-dot-product attention as the model runs it, and the few rows that were asked for beside it.

The rows are computed from the very queries, keys and mask that the layer passes to its attention, never as a full S x S matrix. They
leave the model as transformers' own ``output_attentions``; the request travels as the forward argument ``query_rows``, so there is no
global state.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IMPLEMENTATION = "interp_rows"
LAST = "last"  # the request for the last position alone, which needs no gathering

Rows = torch.Tensor | str

_SDPA = logging.getLogger(sdpa_attention_forward.__module__)


def attention_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    rows: Rows = LAST,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """``softmax(query[rows] @ key.T * scaling + mask)`` for chosen rows.

    Parameters
    ----------
    query
        (batch, head, step, feature), after the rotary embedding.
    key
        (batch, key-value head, key, feature); several heads share one without a copy.
    mask
        (batch, 1, step, key), True where attention is allowed or an additive float; None is causal.
    scaling
        The layer's own.
    rows
        (batch, row) positions along `step`, or `LAST`.
    sliding_window
        How many keys a causal row reaches back where there is no mask.

    Returns
    -------
    (batch, head, row, key) float32. Half-precision queries and keys are multiplied in float32, as the fused kernels do (eager attention
    rounds the logits instead).
    """
    batch, heads, steps, features = query.shape
    groups, keys = key.shape[1], key.shape[2]
    if isinstance(rows, str):
        chosen, allowed = query[:, :, -1:], None if mask is None else mask[:, :, -1:]
        position = torch.full((batch, 1), keys - 1, device=query.device)
    else:
        index = rows[:, None, :, None]
        chosen = query.gather(2, index.expand(-1, heads, -1, features))
        allowed = None
        if mask is not None:
            allowed = mask.expand(batch, -1, -1, -1).gather(2, index.expand(-1, mask.shape[1], -1, mask.shape[3]))
        position = rows + (keys - steps)
    n_rows = chosen.shape[2]
    chosen = chosen.reshape(batch, groups, heads // groups * n_rows, features)
    if chosen.dtype in (torch.float16, torch.bfloat16):
        chosen, key = chosen.float(), key.float()
    logits = torch.matmul(chosen, key.transpose(2, 3)).mul_(scaling).reshape(batch, heads, n_rows, keys)
    if allowed is None:
        past = position[:, None, :, None]
        at = torch.arange(keys, device=query.device)
        forbidden = at > past
        if sliding_window is not None:
            forbidden = forbidden | (at <= past - sliding_window)
        logits = logits.masked_fill_(forbidden, -torch.inf)
    elif allowed.dtype == torch.bool:
        logits = logits.masked_fill_(~allowed[..., :keys], -torch.inf)
    else:
        logits = logits + allowed[..., :keys]
    return logits.softmax(-1).float()


def rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    query_rows: Rows | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The attention function transformers calls: sdpa's output, and the requested rows in place of the weights."""
    # `output_attentions` stays here: sdpa would warn that it cannot serve it, and these rows serve it
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if query_rows is None:
        return output, None
    scaling = kwargs.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return output, attention_rows(query, key, attention_mask, scaling, query_rows, kwargs.get("sliding_window"))


def register() -> None:
    """Make `IMPLEMENTATION` known to transformers, attention and mask.

    Without the mask function transformers makes no mask at all: padding would be seen, and picture tokens would not see each other.
    """
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, rows_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)


register()


@contextmanager
def switched(model: Any, implementation: str) -> Iterator[None]:
    """Switch the text decoder to an attention implementation, and back at the end. The vision tower keeps its own."""
    before = model.config.get_text_config()._attn_implementation
    if before == implementation:
        yield
        return
    model.set_attn_implementation({"text_config": implementation})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


@contextmanager
def serving_rows(model: Any) -> Iterator[None]:
    """Switch the text decoder to `IMPLEMENTATION`, and back at the end."""
    register()  # again: with its mask forgotten since, a model whose picture tokens see each other would silently lose that
    _SDPA.addFilter(_is_news)
    try:
        with switched(model, IMPLEMENTATION):
            yield
    finally:
        _SDPA.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the remark that a vision tower cannot serve attention: the request reaches it too, but its rows are not wanted."""
    return "output_attentions" not in record.getMessage()
