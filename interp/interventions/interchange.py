"""Runs that are given activations of another run: kept once, put in by the batch, under nnsight traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.decoding import Run
from interp.vlm import VLM


@dataclass(frozen=True, eq=False)
class Patch:
    """One patched run: in which layer, at which positions, in which head (None: all of the site)."""

    layer: int
    positions: torch.Tensor
    head: int | None


class Kept:
    """One run without a patch, its activations at `site` kept, from which patched runs start.

    Parameters
    ----------
    vlm
        The model.
    inputs
        Its arguments, batch of one.
    site
        Of the activations.
    right, wrong
        The two tokens whose logits are compared at the last position.
    """

    def __init__(self, vlm: VLM, inputs: Mapping[str, torch.Tensor], site: str, right: int, wrong: int) -> None:
        self._vlm, self._inputs, self._site, self._tokens = vlm, inputs, site, (right, wrong)
        kept: list[torch.Tensor] = []
        with torch.no_grad(), vlm.wrapper.trace(**self._arguments(1)):
            for layer in vlm.wrapper.model.language_model.layers:
                kept.append(_activation(layer, site).clone())
            logits = vlm.wrapper.lm_head.output.save()
        self.activations = kept
        self.logit_diff = float(self._difference(logits)[0])

    def patched(self, source: Kept, runs: Sequence[Patch]) -> NDArray[np.float64]:
        """Logit differences (run,) of this run with patches from `source`. Needs the residual stream, since layers below are skipped."""
        first = min(run.layer for run in runs)
        width = self._vlm.layers[0].self_attn.head_dim
        site = source._site
        n = len(runs)
        with torch.no_grad(), self._vlm.wrapper.trace(**self._arguments(n)):
            for number, layer in enumerate(self._vlm.wrapper.model.language_model.layers):
                mine = [(row, run) for row, run in enumerate(runs) if run.layer == number]
                if number < first:
                    layer.skip(self.activations[number].repeat(n, 1, 1))
                elif mine:
                    _put(_activation(layer, site), source.activations[number][0], mine, width)
            logits = self._vlm.wrapper.lm_head.output.save()
        return self._difference(logits)

    def _arguments(self, n: int) -> dict[str, Any]:
        inputs = {name: torch.cat([value] * n) for name, value in self._inputs.items()}
        return {**Run.start(self._vlm.hf_model, inputs, use_cache=False).prefill_inputs(), "logits_to_keep": 1}

    def _difference(self, logits: torch.Tensor) -> NDArray[np.float64]:
        right, wrong = self._tokens
        last = logits[:, -1].double()
        return (last[:, right] - last[:, wrong]).cpu().numpy()


def _activation(layer: Any, site: str) -> Any:
    """What a layer under an nnsight trace has at a site, (run, position, feature)."""
    if site == "residual":
        return layer.output
    if site == "mlp":
        return layer.mlp.output
    return layer.self_attn.output[0] if site == "attention" else layer.self_attn.o_proj.input


def _put(into: torch.Tensor, source: torch.Tensor, runs: Sequence[tuple[int, Patch]], width: int) -> None:
    """Replace each run's own positions, in place."""
    for row, run in runs:
        part = slice(None) if run.head is None else slice(run.head * width, (run.head + 1) * width)
        into[row, run.positions, part] = source[run.positions, part]
