"""One prompt's run, kept so that altered runs can branch off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from interp.errors import CaptureError
from interp.interventions.branches import Layer


class Recorder:
    """Collects `Layer`s from the passes of one run: its prompt (batch of one, no padding), then the tokens of an answer.

    Parameters
    ----------
    layers
        The decoder layers.
    whole
        Keep what branches at all positions need, not only those from the last prompt token on.
    """

    def __init__(self, layers: Sequence[Any], whole: bool = False) -> None:
        self._layers = layers
        self._whole = whole
        self._passes: list[_Pass] = []

    def run(self, model: Any, **inputs: Any) -> Any:
        """The outputs of one forward pass, which is recorded."""
        seen = _Pass(len(self._layers), self._whole or bool(self._passes))
        hooks = []
        try:
            for place, layer in enumerate(self._layers):
                hooks.append(layer.register_forward_pre_hook(seen.enters(place), with_kwargs=True))
                hooks.append(layer.register_forward_hook(seen.leaves(place), with_kwargs=True))
            with torch.no_grad():
                outputs = model(**inputs, observe=seen, return_dict=True)
        finally:
            for hook in hooks:
                hook.remove()
        self._passes.append(seen)
        return outputs

    def layers(self) -> list[Layer]:
        """The recorded run, all passes joined.

        Raises
        ------
        CaptureError
            A layer was not seen attending.
        """
        for place, seen in enumerate(self._passes[0].layers):
            if seen.key is None:
                raise CaptureError(
                    f"Layer {place} does not attend through the registered implementation, so its keys are not known; check that "
                    "nothing else switches the model's attention at the same time."
                )
        return [_joined([one.layers[place] for one in self._passes], self._whole) for place in range(len(self._layers))]


@dataclass(eq=False)
class _Seen:
    """One layer in one pass."""

    hidden: Any = None
    positions: dict[str, Any] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    added: torch.Tensor | None = None
    key: Any = None
    value: Any = None
    window: int | None = None


class _Pass:
    """What hooks and attention see of one forward pass."""

    def __init__(self, n_layers: int, whole: bool) -> None:
        self.layers = [_Seen() for _ in range(n_layers)]
        self._whole = whole
        self._left: Any = None  # the layer before's output

    def attention(self, place: int, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor, window: int | None) -> None:
        """Called by the attention function."""
        del output
        seen = self.layers[place]
        seen.key, seen.value, seen.window = key[0], value[0], window

    def enters(self, place: int) -> Any:
        """A hook before layer `place`."""

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if kwargs.get("observe") is not self:  # somebody else's pass through the same model
                return
            hidden = args[0] if args else kwargs["hidden_states"]
            seen = self.layers[place]
            seen.hidden = self._part(hidden)
            seen.mask = kwargs.get("attention_mask") if self._whole else None
            cosine, sine = kwargs["position_embeddings"]
            seen.positions = {"position_embeddings": (self._part(cosine), self._part(sine)), "position_ids": None}
            if kwargs.get("position_ids") is not None:
                seen.positions["position_ids"] = self._part(kwargs["position_ids"][..., None])[..., 0]
            if place and self._left is not hidden:
                self.layers[place - 1].added = self._part(hidden) - self._part(self._left)

        return hook

    def leaves(self, place: int) -> Any:
        """A hook after layer `place`."""

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if kwargs.get("observe") is self:
                self._left = output if place + 1 < len(self.layers) else None

        return hook

    def _part(self, values: torch.Tensor) -> torch.Tensor:
        """(..., step, feature): all steps, or a copy of the last, so that the others' memory is free."""
        return values if self._whole else values[..., -1:, :].clone()


def _joined(parts: Sequence[_Seen], whole: bool) -> Layer:
    prompt = parts[0]
    last = prompt.key.shape[1] - 1
    reach = max(last + 1 - prompt.window, 0) if prompt.window is not None else 0
    cosine, sine = (torch.cat([part.positions["position_embeddings"][k] for part in parts], -2) for k in range(2))
    ids = [part.positions["position_ids"] for part in parts]
    added = None
    if any(part.added is not None for part in parts):
        added = torch.cat([torch.zeros_like(part.hidden) if part.added is None else part.added for part in parts], 1)
        added = added if added.any() else None
    hidden = torch.cat([part.hidden for part in parts], 1)
    return Layer(
        keys=prompt.key[:, reach:last],
        values=prompt.value[:, reach:last],
        hidden=hidden,
        positions={"position_embeddings": (cosine, sine), "position_ids": torch.cat(ids, -1) if all(i is not None for i in ids) else None},
        added=added,
        window=prompt.window,
        mask=_whole_mask(prompt, hidden.shape[1]) if whole else None,
    )


def _whole_mask(prompt: _Seen, steps: int) -> torch.Tensor | None:
    """The prompt's own mask, continued causally over the answer."""
    before = prompt.key.shape[1]
    if prompt.mask is None and (prompt.window is None or steps <= prompt.window):
        return None
    at = torch.arange(steps, device=prompt.key.device)
    allowed = at <= at[:, None]
    if prompt.window is not None:
        allowed &= at > at[:, None] - prompt.window
    if prompt.mask is not None:
        allowed[:before, :before] = prompt.mask[0, 0, :before, :before]
    return allowed[None, None]
