"""The logit lens: what the model would say if it stopped after each layer, read through its own final norm and output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from interp.benchmarks.sample import Sample
from interp.circuits.asked import Asked, asked
from interp.interventions.targets import with_targets
from interp.vlm import VLM

_VARIABLES = {
    "reference_token_logprob": ("log-probability of the reference's token, read after the layer", "nat"),
    "foil_token_logprob": ("log-probability of the foil's token, read after the layer", "nat"),
    "reference_rank": ("tokens more likely than the reference's, read after the layer", "1"),
    "foil_rank": ("tokens more likely than the foil's, read after the layer", "1"),
    "logit_difference": ("logit of the reference's token less the foil's, read after the layer", "1"),
}


def lens(
    vlm: VLM,
    bench: Sequence[Sample],
    *,
    prompt: str = "base",
    batch_size: int = 8,
    max_new_tokens: int = 16,
    progress: bool | None = None,
) -> xr.Dataset:
    """How likely the reference and its foil are after each layer, where they are about to be said.

    The stream at the last prompt position (where reference and foil begin alike, at the last token they share) goes through the final
    norm and the output layer as if the remaining layers wrote nothing. After the last layer that is the model itself. Low ranks early
    say that the answer is there to be read in the output's own terms; high ones do not say that it is absent.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    batch_size
        Samples that are answered together; layers are read one prompt at a time.
    max_new_tokens
        Longest answer that is looked at for a foil, in tokens.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        (sample, layer), all float64: `reference_token_logprob` and `foil_token_logprob`, nats; `reference_rank` and `foil_rank`, how
        many tokens are more likely (0 is what would be said); `logit_difference`, reference less foil. The foil's are NaN where a sample
        has none. Beside them `prediction`, `exact_match`, `reference`, `foil` and `foil_position`, and coordinates and provenance as of
        a trace.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample, or two of one id.
    InterpError
        A number is below 1.
    """
    vlm.refuse_edits("lens")
    facts, targets = [], []
    found: list[torch.Tensor] = []
    for batch in asked(vlm, bench, prompt, batch_size, max_new_tokens, "reading every layer", progress):
        for entry in batch:
            found.append(_read(vlm, entry))
            facts.append(entry.facts)
            targets.append(entry.target)
    values = torch.stack(found, dim=1).numpy()
    settings = {"prompt": prompt, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    result = with_targets(facts, targets, vlm, settings)
    result = result.assign_coords(layer=np.arange(vlm.n_layers))
    described = {
        name: (("sample", "layer"), each, {"long_name": long_name, "units": units})
        for each, (name, (long_name, units)) in zip(values, _VARIABLES.items(), strict=True)
    }
    return result.assign(described)


@torch.no_grad()
def _read(vlm: VLM, entry: Asked) -> torch.Tensor:
    """(variable, layer) float64, in the order of `_VARIABLES`."""
    states: list[Any] = []
    with vlm.wrapper.trace(**entry.inputs(vlm), logits_to_keep=1):
        for layer in vlm.wrapper.model.language_model.layers:
            states.append(layer.output[:, -1].clone())
    head, norm = vlm.hf_model.lm_head, vlm.hf_model.model.language_model.norm
    # a layer at a time: the vocabulary is wide
    return torch.stack([_of_logits(head(norm(state))[0].float(), entry) for state in states], dim=-1)


def _of_logits(logits: torch.Tensor, entry: Asked) -> torch.Tensor:
    foil = entry.token if entry.foil is None else entry.foil
    ids = torch.tensor([entry.token, foil], device=logits.device)
    picked = logits[ids]
    rank = (logits[None] > picked[:, None]).sum(-1)
    values = torch.stack([*logits.log_softmax(-1)[ids].double(), *rank.double(), (picked[0] - picked[1]).double()]).cpu()
    if entry.foil is None:
        values[[1, 3, 4]] = torch.nan
    return values
