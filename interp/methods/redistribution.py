"""Attention taken from sinks and given to the picture, inside the forward pass (Kang et al., arXiv 2503.03321).

It is an attention implementation of its own: scaled-dot-product attention as the model runs it, and beside it the few rows that are
changed, from the same queries, keys and mask. What a call changes travels as an argument of the forward pass, so nothing is global.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture.attention import attention_rows, switched
from interp.capture.sinks import THRESHOLD
from interp.decoding import Run
from interp.encoding import SEGMENTS
from interp.vlm import VLM

IMPLEMENTATION = "interp_redistribution"
FIRST_LAYER = 2  # no sinks before

_IMAGE = SEGMENTS.index("image")


@dataclass(frozen=True)
class Rule:
    """When a head's attention is redistributed, and how much of it.

    Parameters
    ----------
    image_mass
        Least attention on visual tokens of a head that is changed.
    sink_share
        Largest part of that which sinks may hold.
    kept
        What a sink's weight is multiplied with.
    """

    image_mass: float = 0.2
    sink_share: float = 0.5
    kept: float = 0.6


def redistributed(
    weights: torch.Tensor, visual: torch.Tensor, sink: torch.Tensor, rule: Rule | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention rows with part of the sinks' weight moved to the other visual tokens, in proportion to their own.

    Parameters
    ----------
    weights
        (..., key), rows that sum to 1.
    visual, sink
        Bool, broadcastable to `weights`: the visual tokens, and the sinks, of text or picture.

    Returns
    -------
    tuple
        The rows (..., key), and which of them were changed (...): those that look at the picture, not mainly at its sinks, and have
        any weight on sinks to give.
    """
    rule = rule or Rule()
    nothing = torch.zeros((), dtype=weights.dtype, device=weights.device)
    on_picture = torch.where(visual, weights, nothing)
    receiving = torch.where(visual & ~sink, weights, nothing)
    mass, rest = on_picture.sum(-1), receiving.sum(-1)
    lost = torch.where(sink, weights, nothing).sum(-1)
    chosen = (mass >= rule.image_mass) & (mass - rest <= rule.sink_share * mass) & (lost > 0) & (rest > 0)
    freed = (1 - rule.kept) * lost / rest.clamp_min(1e-12)
    given = torch.where(sink, rule.kept * weights, weights) + freed[..., None] * receiving
    return torch.where(chosen[..., None], given, weights), chosen


@dataclass(eq=False)
class _Change:
    """What one forward pass changes: in rows (batch, row) along its steps, with masks (batch, key) of visual tokens and sinks by layer."""

    rows: torch.Tensor
    visual: torch.Tensor
    sinks: dict[int, torch.Tensor]
    rule: Rule
    chosen: dict[int, torch.Tensor]


def redistributing_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    redistribute: _Change | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls: sdpa, with chosen rows computed anew."""
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    sink = None if redistribute is None else redistribute.sinks.get(module.layer_idx)
    if redistribute is None or sink is None:
        return output, None
    scaling = kwargs.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = attention_rows(query, key, attention_mask, scaling, redistribute.rows, kwargs.get("sliding_window"))
    batch, heads, rows, keys = weights.shape
    groups = key.shape[1]
    # a sliding layer keeps the newest keys only
    visual, sink = (mask[:, None, None, -keys:] for mask in (redistribute.visual, sink))
    changed, chosen = redistributed(weights, visual, sink, redistribute.rule)
    redistribute.chosen[module.layer_idx] = chosen[:, :, -1]
    made = changed.reshape(batch, groups, heads // groups * rows, keys) @ value.to(changed.dtype)
    made = made.reshape(batch, heads, rows, -1).transpose(1, 2).to(output.dtype)
    at = redistribute.rows[:, :, None, None].expand_as(made)
    # a head that is not chosen keeps the very numbers of the model's own attention
    return output.scatter(1, at, torch.where(chosen.transpose(1, 2)[..., None], made, output.gather(1, at))), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, redistributing_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, sdpa_mask)


class Redistribution:
    """Forward passes of some prompts under redistribution; see `redistributing`.

    Sinks are tokens of the prompt with one enormous feature in what enters a layer, as `interp.sinks` finds them.

    Parameters
    ----------
    vlm
        The model.
    segments
        (token,) of each prompt by its sample id, in their order in the batch, as in `Encoding`.
    rule
        By default the paper's numbers.
    """

    def __init__(self, vlm: VLM, segments: Mapping[str, NDArray[np.integer]], rule: Rule | None = None) -> None:
        self._vlm = vlm
        self._rule = rule or Rule()
        self._places = {name: place for place, name in enumerate(segments)}
        self._width = max(len(segment) for segment in segments.values())
        self._visual = torch.zeros(len(segments), self._width, dtype=torch.bool, device=vlm.device)
        for row, segment in enumerate(segments.values()):  # prompts are padded on the left
            self._visual[row, self._width - len(segment) :] = torch.from_numpy(segment == _IMAGE).to(vlm.device)
        width = vlm.hf_model.config.get_text_config().hidden_size
        self._limit = min(THRESHOLD, width**0.5 / 2)
        self._sinks: dict[int, torch.Tensor] = {}
        self._chosen: dict[int, torch.Tensor] = {}

    def changed_share(self) -> list[float]:
        """Per prompt, the share of heads changed at the last prompt token, among the layers that may be; NaN where no layer may."""
        if not self._chosen:
            return [float("nan")] * len(self._places)
        return torch.stack(list(self._chosen.values())).float().mean(dim=(0, 2)).tolist()

    def call(self, run: Run, arguments: dict[str, Any]) -> Any:
        """One forward pass of a generation, or of a branch of it with rows chosen anew."""
        fed = run.fed(arguments)
        rows = torch.tensor([self._places[name] for name, _ in run.asked], device=self._vlm.device)
        visual = torch.nn.functional.pad(self._visual[rows], (0, fed.past + fed.steps - self._width))
        if fed.past:
            steps = torch.arange(fed.steps, device=self._vlm.device).expand(len(rows), -1)
            sinks = {k: torch.nn.functional.pad(mask[rows], (0, fed.past + fed.steps - self._width)) for k, mask in self._sinks.items()}
            change = _Change(steps, visual, sinks, self._rule, {})
        else:  # the prefill, in which sinks are found as the layers run
            change = _Change(_after_pictures(self._visual), visual, self._sinks, self._rule, self._chosen)
        extended = {**arguments, "redistribute": change}
        with self._finding() if not fed.past else _nothing():
            return self._vlm.traced(run, extended) if self._vlm.edits else self._vlm.hf_model(**extended)

    @contextmanager
    def _finding(self) -> Iterator[None]:
        def before(place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entering = (args[0] if args else kwargs["hidden_states"]).float()
            strength = entering.abs().amax(-1) / entering.square().mean(-1).sqrt()
            self._sinks[place] = strength > self._limit

        last = self._vlm.n_layers - 1  # which the paper leaves as it is
        hooks = [
            self._vlm.layers[place].register_forward_pre_hook(
                lambda _, args, kwargs, place=place: before(place, args, kwargs), with_kwargs=True
            )
            for place in range(FIRST_LAYER, last)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _after_pictures(visual: torch.Tensor) -> torch.Tensor:
    """(batch, row) the positions behind each prompt's last visual token; shorter lists repeat their last."""
    width = visual.shape[1]
    first = torch.where(visual, torch.arange(width, device=visual.device), -1).amax(1) + 1
    steps = torch.arange(int((width - first).max()), device=visual.device)
    return torch.minimum(first[:, None] + steps, torch.tensor(width - 1, device=visual.device))


@contextmanager
def redistributing(vlm: VLM, segments: Mapping[str, NDArray[np.integer]], rule: Rule | None = None) -> Iterator[Redistribution]:
    """Switch the text decoder to `IMPLEMENTATION`; generations begun with `Redistribution.call` then redistribute."""
    with switched(vlm.hf_model, IMPLEMENTATION):
        yield Redistribution(vlm, segments, rule)
