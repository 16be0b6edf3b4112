"""Runs of one prompt that differ from the plain one in a few attention edges, at the cost of what these edges can change.

The plain run is recorded once. A run with blocked edges equals it below the first layer where an edge is blocked, and at all positions
before the first blocked query; so every such run branches off there, carries the later positions only, and attends to the recorded keys
and values of the earlier ones. Many runs share one pass over the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture.attention import switched
from interp.decoding import Run
from interp.errors import CaptureError
from interp.vlm import VLM

IMPLEMENTATION = "interp_edges"
# How far the unblocked branch may be from the model's own logits, as a share of the largest: both compute the same in another order.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_TOLERANCE_HALF = 0.1


@dataclass(frozen=True)
class Cut:
    """Edges to block: from the positions `keys` to the run's queries, in `layers`. A token always keeps the edge to itself."""

    layers: range
    keys: tuple[int, ...]


@dataclass(eq=False)
class _Seen:
    """What the recorded run did at one layer: its input, its arguments, keys, values and mask, and what is added after it."""

    hidden: torch.Tensor
    arguments: dict[str, Any]
    key: torch.Tensor = field(init=False)
    value: torch.Tensor = field(init=False)
    mask: torch.Tensor = field(init=False)
    output: torch.Tensor = field(init=False)


def edges_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    edges_seen: list[_Seen] | None = None,
    edges_before: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls: sdpa, which is recorded on request, or attention with shared earlier keys and values."""
    if edges_before is not None:
        assert attention_mask is not None
        return _shared(query, key, value, attention_mask, kwargs.get("scaling"), *edges_before), None
    if edges_seen is not None:
        assert attention_mask is not None
        edges_seen[-1].key, edges_seen[-1].value, edges_seen[-1].mask = key[0], value[0], attention_mask[0, 0]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0], None


def explicit_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """The mask of sdpa, written out even where it is merely causal, so that edges can be taken from it."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, edges_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, explicit_mask)


def serving_edges(model: Any) -> AbstractContextManager[None]:
    """Switch the text decoder to `IMPLEMENTATION`, and back at the end. The vision tower keeps its own attention."""
    return switched(model, IMPLEMENTATION)


class Edges:
    """A recorded run, and runs with blocked edges beside it. The text decoder must be inside `serving_edges`.

    Parameters
    ----------
    vlm
        The model.
    inputs
        Its arguments, batch of one, without padding.
    queries
        Positions whose attention is cut.
    n_read
        How many of the last positions' logits are wanted.
    """

    def __init__(self, vlm: VLM, inputs: Mapping[str, torch.Tensor], queries: Sequence[int], n_read: int) -> None:
        self._vlm = vlm
        self._seen, logits = _record(vlm, inputs, n_read)
        self.logits = logits[0]
        length = self._seen[0].hidden.shape[1]
        self._start = _first_changed(self._seen, min([*queries, length - n_read]))
        self._n_read = n_read
        rows = torch.zeros(length - self._start, dtype=torch.bool, device=vlm.device)
        rows[torch.as_tensor([query - self._start for query in queries], dtype=torch.long, device=vlm.device)] = True
        self._queries = rows

    def run(self, cuts: Sequence[Cut], batch_size: int) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Logits under each of `cuts`, in parts.

        Yields
        ------
        tuple
            Which of `cuts` a part is of; their logits (cut, step, vocabulary); and those of the uncut run (step, vocabulary), computed
            beside them in the same way, which is what they are to be compared with. A cut that blocks nothing is left out.

        Raises
        ------
        CaptureError
            The uncut run does not give the model's own logits.
        """
        first = {which: layer for which, cut in enumerate(cuts) if (layer := self._first(cut)) is not None}
        order = sorted(first, key=first.__getitem__)
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            logits = self._branches([cuts[which] for which in part], [first[which] for which in part])
            self._check(logits[0])
            yield part, logits[1:], logits[0]

    def _first(self, cut: Cut) -> int | None:
        """The first layer in which the cut changes anything."""
        lost = self._lost(cut)
        return next((layer for layer in cut.layers if bool((self._allowed(layer) & lost).any())), None)

    def _allowed(self, layer: int) -> torch.Tensor:
        """(query, key) the carried positions' own mask."""
        return self._seen[layer].mask[self._start :]

    def _lost(self, cut: Cut) -> torch.Tensor:
        """(query, key) edges that a cut takes away."""
        length = self._start + len(self._queries)
        keys = torch.zeros(length, dtype=torch.bool, device=self._queries.device)
        keys[torch.as_tensor(cut.keys, dtype=torch.long, device=keys.device)] = True
        lost = self._queries[:, None] & keys[None]
        lost[:, self._start :].fill_diagonal_(False)
        return lost

    @torch.no_grad()
    def _branches(self, cuts: Sequence[Cut], first: Sequence[int]) -> torch.Tensor:
        """Logits (1 + cut, step, vocabulary); the uncut run is the first row. `first` must ascend."""
        lost = [self._lost(cut) for cut in cuts]
        states = self._seen[first[0]].hidden[:, self._start :]
        joined = 0
        for layer in range(first[0], self._vlm.n_layers):
            seen = self._seen[layer]
            new = sum(one == layer for one in first)
            joined += new
            states = torch.cat([states, states[:1].expand(new, -1, -1)])
            mask = self._allowed(layer).expand(1 + joined, -1, -1).clone()
            for row, (cut, gone) in enumerate(zip(cuts[:joined], lost[:joined], strict=True), 1):
                if layer in cut.layers:
                    mask[row] &= ~gone
            before = (seen.key[:, : self._start], seen.value[:, : self._start])
            states = self._vlm.layers[layer](states, attention_mask=mask[:, None], edges_before=before, **self._arguments(seen))
            if layer + 1 < self._vlm.n_layers and seen.output is not (after := self._seen[layer + 1].hidden):
                states = states + (after - seen.output)[:, self._start :]
        model = self._vlm.hf_model
        return model.lm_head(model.model.language_model.norm(states[:, -self._n_read :])).float()

    def _arguments(self, seen: _Seen) -> dict[str, Any]:
        length = seen.hidden.shape[1]
        return {name: _later(value, self._start, length) for name, value in seen.arguments.items()}

    def _check(self, uncut: torch.Tensor) -> None:
        scale = max(1.0, float(self.logits.abs().max()))
        off = float((uncut - self.logits).abs().max()) / scale
        if not off <= _TOLERANCE.get(self._vlm.dtype, _TOLERANCE_HALF):
            raise CaptureError(
                f"Model {self._vlm.name!r} run layer by layer gives other logits than its own (off by {off:.2g} of the largest); its "
                "decoder does more than its layers, so this study does not support it."
            )


@torch.no_grad()
def _record(vlm: VLM, inputs: Mapping[str, torch.Tensor], n_read: int) -> tuple[list[_Seen], torch.Tensor]:
    seen: list[_Seen] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("edges_seen") is seen:
            hidden = args[0] if args else kwargs["hidden_states"]
            aside = ("hidden_states", "attention_mask", "past_key_values", "use_cache", "edges_seen")
            seen.append(_Seen(hidden, {name: value for name, value in kwargs.items() if name not in aside}))

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if kwargs.get("edges_seen") is seen:
            seen[-1].output = output

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in vlm.layers]
    hooks += [layer.register_forward_hook(after, with_kwargs=True) for layer in vlm.layers]
    try:
        arguments = Run.start(vlm.hf_model, inputs, use_cache=False).prefill_inputs()
        logits = vlm.hf_model(**arguments, edges_seen=seen, logits_to_keep=n_read, return_dict=True).logits.float()
    finally:
        for hook in hooks:
            hook.remove()
    return seen, logits


def _first_changed(seen: Sequence[_Seen], start: int) -> int:
    """The first position at or before `start` such that no earlier one attends to it or beyond it."""
    for mask in {id(one.mask): one.mask for one in seen}.values():
        ahead = np.flatnonzero(mask[:start, start:].any(-1).cpu().numpy())
        if ahead.size:  # inside a block of tokens that see each other
            return _first_changed(seen, int(ahead[0]))
    return start


def _later(value: Any, start: int, length: int) -> Any:
    """The part of a layer's argument that belongs to positions from `start` on."""
    if isinstance(value, tuple | list):
        return type(value)(_later(each, start, length) for each in value)
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    if value.is_floating_point():  # rotary embeddings: (..., position, feature)
        return value[..., start:, :] if value.shape[-2] == length else value
    return value[..., start:] if value.shape[-1] == length else value


def _shared(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor,
    scaling: float | None,
    earlier_key: torch.Tensor,
    earlier_value: torch.Tensor,
) -> torch.Tensor:
    """Attention of a batch to its own keys and, without a copy per row, to earlier ones that it shares.

    Parameters
    ----------
    query
        (batch, head, step, feature).
    key, value
        (batch, key-value head, step, feature).
    allowed
        (batch, 1, step, earlier + step), True where attention is allowed.
    earlier_key, earlier_value
        (key-value head, earlier, feature).

    Returns
    -------
    (batch, step, head, feature)
    """
    batch, heads, steps, features = query.shape
    groups, earlier = earlier_key.shape[:2]
    rows = heads // groups * steps  # queries that share a key-value head
    scale = features**-0.5 if scaling is None else scaling
    wide = torch.promote_types(query.dtype, torch.float32)  # as the fused kernels do
    grouped = query.reshape(batch, groups, rows, features).to(wide)
    flat = grouped.transpose(0, 1).reshape(groups, batch * rows, features)
    far = (flat @ earlier_key.to(wide).transpose(1, 2)).reshape(groups, batch, rows, earlier).transpose(0, 1)
    near = grouped @ key.to(wide).transpose(2, 3)
    logits = torch.cat([far, near], dim=-1).mul_(scale).reshape(batch, groups, heads // groups, steps, earlier + steps)
    logits.masked_fill_(~allowed[:, :, None], -torch.inf)
    weights = logits.softmax(-1).reshape(batch, groups, rows, earlier + steps).to(query.dtype)
    flat = weights[..., :earlier].transpose(0, 1).reshape(groups, batch * rows, earlier)
    from_far = (flat @ earlier_value).reshape(groups, batch, rows, features).transpose(0, 1)
    output = from_far + weights[..., earlier:] @ value
    return output.reshape(batch, heads, steps, features).transpose(1, 2).contiguous()
