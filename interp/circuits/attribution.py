"""What every head writes about the answer, and from which tokens: direct logit attribution of a benchmark, labelled as a trace is."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.benchmarks.sample import Sample
from interp.capture.labels import pad, static
from interp.capture.reach import mark_unreachable
from interp.circuits.asked import Asked, asked
from interp.circuits.bridging import bridge
from interp.circuits.shares import Contributions, contributions
from interp.interventions.targets import with_targets
from interp.vlm import VLM

_SHARES = {
    "direct": ("sample layer head", "direct contribution of the head to the logit difference"),
    "mlp": ("sample layer", "direct contribution of the MLP to the logit difference"),
    "attention_bias": ("sample layer", "direct contribution of the attention's output bias to the logit difference"),
    "between": ("sample layer", "direct contribution of what is added to the stream after the layer to the logit difference"),
    "embed": ("sample", "direct contribution of what enters the first layer to the logit difference"),
    "unembed_bias": ("sample", "the output layer's own bias in the logit difference"),
    "logit_difference": ("sample", "logit of the reference's token less the foil's"),
    "residue": ("sample", "logit difference less all contributions: rounding"),
}
_SOURCES = {
    "write": ("sample layer head token", "what the head writes from the token to the logit difference"),
    "write_answer": ("sample layer head", "what the head writes from answer tokens before the one that is read to the logit difference"),
}


def attribute(
    vlm: VLM,
    bench: Sequence[Sample],
    *,
    prompt: str = "base",
    sources: bool = True,
    batch_size: int = 8,
    max_new_tokens: int = 16,
    progress: bool | None = None,
) -> xr.Dataset:
    """Split the logit difference between reference and foil into what every part of the decoder wrote directly.

    It is read where the answer is about to be said: at the last prompt position, or, where reference and foil begin alike, at the last
    token they share. Direct means along the residual stream, past all later layers: what a head does through other heads is not in its
    share, so a small share is no proof that a head does not matter (ablate it to see). The split is exact, checked for every sample:
    heads, MLPs, biases, what vision features add between layers and what enters the first layer sum to the model's own logit difference.

    Parameters
    ----------
    vlm
        The model, which stays as it is: TransformerLens runs on the same weights beside it.
    bench
        A benchmark, or any sequence of samples.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    sources
        Also split every head by the token it writes from; without, `attention`, `write` and `write_answer` are left out.
    batch_size
        Samples that are answered together. Attribution takes one prompt at a time, since its attention is held as whole matrices.
    max_new_tokens
        Longest answer that is looked at for a foil, in tokens.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        In logits, positive towards the reference, NaN for a sample without a foil (`n_without_foil` in the attributes counts them):
        `direct` (sample, layer, head), the heads' shares; `mlp`, `attention_bias`, `between` (sample, layer); `embed`, `unembed_bias`
        (sample); their sum `logit_difference` (sample), up to `residue`. `attention` (sample, layer, head, token) is the position's row
        and `write` what each head takes from each token: attention times what the token's value would write. `write` sums over `token`,
        together with `write_answer` (sample, layer, head), to `direct`. NaN past a prompt's end and where a sliding layer does not
        reach. `prediction`, `exact_match`, `reference`, `foil` and `foil_position`; coordinates, `coverage` and provenance as of a
        trace, so that `interp.analysis` takes the dataset for one.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample, or two of one id.
    InterpError
        A number is below 1.
    ModelError
        transformer-lens is not installed, the decoder is not built of the parts that are known, or the shares do not add up.
    """
    vlm.refuse_edits("attribute")
    twin = bridge(vlm)
    facts, targets = [], []
    shares: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_SHARES, *_SOURCES, "attention")}
    for batch in asked(vlm, bench, prompt, batch_size, max_new_tokens, "attributing", progress):
        for entry in batch:
            found = contributions(twin, entry.inputs(vlm), entry.token, entry.foil)
            for name, value in _shares(vlm, entry, found, sources).items():
                shares[name].append(value)
            facts.append(entry.facts)
            targets.append(entry.target)
    settings = {"prompt": prompt, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "sources": sources}
    of_samples = with_targets(facts, targets, vlm, settings)
    result = static(facts, vlm, settings)
    result = result.assign({name: variable for name, variable in of_samples.data_vars.items() if name not in result})
    variables: dict[str, Any] = {}
    for name, (dims, long_name) in {**_SHARES, **(_SOURCES if sources else {})}.items():
        variables[name] = (dims.split(), pad(shares[name], np.nan, np.float32), {"long_name": long_name, "units": "logit"})
    if sources:
        attributes = {"long_name": "attention of the position that is read", "units": "1"}
        variables["attention"] = (("sample", "layer", "head", "token"), pad(shares["attention"], np.nan, np.float32), attributes)
    return result.assign(variables).assign_attrs(
        attention_implementation="eager, by TransformerLens",
        transformer_lens=version("transformer-lens"),
        n_without_foil=sum(target.position < 0 for target in targets),
    )


def _shares(vlm: VLM, entry: Asked, found: Contributions, sources: bool) -> dict[str, NDArray[np.float32]]:
    """By variable, of one sample; all but the attention is NaN without a foil, since there is no difference to split."""
    values: dict[str, Any] = {name: getattr(found, name) for name in ("mlp", "attention_bias", "between", "embed", "unembed_bias")}
    values |= {"direct": found.head, "logit_difference": found.logit, "residue": found.logit - found.total}
    n = len(entry.encoding)
    if sources:
        values |= {"write": found.write[..., :n], "write_answer": found.write[..., n:].sum(-1)}
    arrays = {name: np.array(value, dtype=np.float32) for name, value in values.items()}
    if entry.foil is None:
        arrays = {name: np.full_like(value, np.nan) for name, value in arrays.items()}
    if sources:
        arrays["attention"] = found.attention[..., :n].copy()
        mark_unreachable(vlm, arrays["attention"][:, :, None], [entry.position])
        arrays["write"][np.isnan(arrays["attention"])] = np.nan  # a head has no opinion on what its layer does not reach
    return arrays
