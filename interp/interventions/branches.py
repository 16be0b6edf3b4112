"""Attention of runs that branch off a recorded one: they share its prefix, and heads in them give something else.

It is an attention implementation of its own, registered with transformers beside its mask function. What a call observes or branches from
travels as an argument of the forward pass, so there is no global state.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture.attention import switched

IMPLEMENTATION = "interp_branches"


class Observer(Protocol):
    """Is shown every layer's attention: keys and values before they are repeated, and heads' outputs (batch, step, head, feature)."""

    def attention(self, place: int, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor, window: int | None) -> None: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Edit:
    """Head outputs to be replaced in a batch of branches.

    Parameters
    ----------
    rows, heads
        (edit,) which branch, and which head in it.
    values
        (edit, step or 1, feature) what the head gives instead, at the first steps of the branch.
    steps
        How many of them.
    """

    rows: torch.Tensor
    heads: torch.Tensor
    values: torch.Tensor
    steps: int

    def apply(self, output: torch.Tensor) -> None:
        """Replace in `output` (branch, step, head, feature), in place."""
        at = torch.arange(self.steps, device=output.device)
        output[self.rows[:, None], at, self.heads[:, None]] = self.values


@dataclass(eq=False)
class Layer:
    """What one layer of a recorded run gives to branches.

    Parameters
    ----------
    keys, values
        (key-value head, key, feature) of the prompt without its last token, as far as a sliding window lets that token see.
    hidden
        (1, step, feature) what entered the layer; steps are the last prompt token and the answer's, or all of them.
    positions
        Further arguments of the layer, for those steps.
    added
        (1, step, feature) what the model added to the layer's output before the next layer, if anything.
    window
        Reach of a sliding layer's queries.
    mask
        (1, 1, step, step) where attention is allowed, None for causal; for runs recorded whole.
    """

    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor
    positions: dict[str, Any]
    added: torch.Tensor | None
    window: int | None
    mask: torch.Tensor | None

    def arguments(self, edit: Edit | None, whole: bool) -> dict[str, Any]:
        """Keyword arguments that run the layer on branches of this run."""
        branch = Branch(self, edit, whole)
        return {**self.positions, "attention_mask": self.mask, "past_key_values": None, "use_cache": False, "branch": branch}


@dataclass(eq=False)
class Branch:
    """One layer's call on a batch of branches: from which run they come, and what is replaced in them."""

    layer: Layer
    edit: Edit | None
    whole: bool  # all positions are in the branch, not only those after the prefix
    used: bool = False

    def attend(self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any) -> torch.Tensor:
        """(branch, step, head, feature) outputs of every head, those of the edit replaced."""
        self.used = True
        if self.whole:
            output = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
        else:
            scaling = kwargs.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            output = branch_attention(query, key, value, self.layer.keys, self.layer.values, scaling, self.layer.window)
        if self.edit is not None:
            self.edit.apply(output)
        return output


def branch_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    scaling: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention of branches that share a prefix, which is never copied.

    Parameters
    ----------
    query
        (branch, head, step, feature), after the rotary embedding.
    key, value
        (branch, key-value head, step, feature), the branches' own.
    prefix_keys, prefix_values
        (key-value head, key, feature), the positions right before the branches' first.
    scaling
        The layer's own.
    window
        How many keys a query reaches, itself included.

    Returns
    -------
    (branch, step, head, feature). Half-precision inputs are multiplied in float32, as the fused kernels do.
    """
    branches, heads, steps, width = query.shape
    groups, before = prefix_keys.shape[:2]
    share = heads // groups
    exact = torch.promote_types(query.dtype, torch.float32)
    queries = query.reshape(branches, groups, share * steps, width).to(exact) * scaling
    # key-value heads first: one matrix product per head serves every branch
    pooled = queries.transpose(0, 1).reshape(groups, branches * share * steps, width)
    scores = torch.empty(groups, branches, share, steps, before + steps, dtype=exact, device=query.device)
    scores[..., :before] = (pooled @ prefix_keys.to(exact).transpose(1, 2)).view(groups, branches, share, steps, before)
    own = queries @ key.to(exact).transpose(2, 3)
    scores[..., before:] = own.view(branches, groups, share, steps, steps).transpose(0, 1)
    forbidden = _forbidden(steps, before, window, query.device)
    if forbidden is not None:
        scores.masked_fill_(forbidden, -torch.inf)
    weights = scores.softmax(-1)
    del scores
    seen = weights[..., :before].reshape(groups, branches * share * steps, before) @ prefix_values.to(exact)
    output = seen.view(groups, branches, share * steps, width).transpose(0, 1)
    recent = weights[..., before:].transpose(0, 1).reshape(branches, groups, share * steps, steps)
    output = output + recent @ value.to(exact)
    return output.reshape(branches, heads, steps, width).transpose(1, 2).to(query.dtype).contiguous()


def _forbidden(steps: int, before: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """(step, key) what a step may not see of prefix and branch; None where it sees everything."""
    if steps == 1 and (window is None or before < window):
        return None
    query = torch.arange(before, before + steps, device=device)[:, None]
    key = torch.arange(before + steps, device=device)
    forbidden = key > query
    return forbidden if window is None else forbidden | (key <= query - window)


def branching_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    observe: Observer | None = None,
    branch: Branch | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls: sdpa that can be observed, or a branch's attention."""
    if branch is not None:
        return branch.attend(module, query, key, value, attention_mask, **kwargs), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if observe is not None:
        observe.attention(module.layer_idx, key, value, output, kwargs.get("sliding_window"))
    return output, None


def register() -> None:
    """Make `IMPLEMENTATION` known to transformers, attention and mask. Without the mask function, every mask would silently be lost."""
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, branching_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)


register()


def branching(model: Any) -> AbstractContextManager[None]:
    """Switch the text decoder to `IMPLEMENTATION`, and back at the end. The vision tower keeps its own attention."""
    return switched(model, IMPLEMENTATION)
