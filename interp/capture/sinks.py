"""Attention sinks among the tokens: those whose normalised residual stream has one enormous feature (arXiv 2503.03321)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp.benchmarks.sample import Sample
from interp.capture.labels import provenance_of_model
from interp.capture.progress import track
from interp.decoding import Run
from interp.errors import BenchmarkError
from interp.vlm import VLM

THRESHOLD = 20.0  # the paper's


def sinks(
    vlm: VLM, bench: Sequence[Sample], *, prompt: str = "base", threshold: float | None = None, progress: bool | None = None
) -> xr.DataArray:
    """Which tokens are sinks in what enters each layer.

    Parameters
    ----------
    vlm, bench, prompt
        As in `interp.trace`.
    threshold
        Of the largest feature of ``RMSNorm(h)``. By default the paper's 20, or, in a model less than 1600 wide, where 20 would be nearly
        or quite impossible, half of the largest value there is, the root of the width. Where the paper looks at two features known of a
        model, this looks at all. The first two layers have no sinks, as in the paper.
    progress
        Force a progress bar on or off.

    Returns
    -------
    xr.DataArray
        (sample, layer, token) bool, tokens as in a trace of the same samples; False past a prompt's end.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample.
    """
    vlm.refuse_edits("sinks")
    if not len(bench):
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    width = vlm.hf_model.config.get_text_config().hidden_size
    limit = min(THRESHOLD, width**0.5 / 2) if threshold is None else threshold
    found: list[np.ndarray] = []
    layers = vlm.wrapper.model.language_model.layers
    for sample in track(bench, len(bench), "sinks", progress):
        run = Run.start(vlm.hf_model, vlm.batch([vlm.encode(sample, prompt)]), use_cache=False)
        strengths: list[torch.Tensor] = []
        with torch.no_grad(), vlm.wrapper.trace(**run.prefill_inputs(), logits_to_keep=1):
            for layer in layers:
                entering = layer.input[0].float()
                strengths.append((entering.abs().amax(-1) / entering.square().mean(-1).sqrt()).save())
        table = torch.stack(strengths).cpu().numpy() > limit
        table[:2] = False
        found.append(table)
    longest = max(table.shape[1] for table in found)
    padded = np.stack([np.pad(table, ((0, 0), (0, longest - table.shape[1]))) for table in found])
    return xr.DataArray(
        padded,
        dims=("sample", "layer", "token"),
        coords={"sample": np.array([sample.id for sample in bench], dtype=np.dtypes.StringDType()), "layer": np.arange(vlm.n_layers)},
        attrs={**provenance_of_model(vlm), "long_name": "the token is an attention sink", "threshold": limit},
        name="sinks",
    )
