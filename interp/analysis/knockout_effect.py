"""Does the answer need the evidence it looks at? The effect of hiding it, beside that of hiding as much of anything else."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from interp.analysis.correctness import by_correctness
from interp.errors import InterpError

_BLOCKS = ("evidence", "control")


def knockout_effect(
    result: xr.Dataset,
    effect: str = "delta_logprob",
    correct: str | xr.DataArray = "exact_match",
    *,
    strata: Sequence[str] | None = None,
    n_permutations: int = 2000,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Effects of a knock-out by layer, for right and for wrong answers, and how much more the evidence does than its control.

    The causal counterpart of the paper's Fig. 4: there, the attention that right and wrong answers pay to the evidence; here, what
    either loses without it, less what it loses without as many random visual tokens.

    Parameters
    ----------
    result
        Of `interp.interventions.knockout`, with the blocks ``evidence`` and ``control``.
    effect
        Which effect: `delta_logprob`, `delta_logit_diff` or `flip`.
    correct, strata, n_permutations, n_resamples, level, seed
        As in `by_correctness`.

    Returns
    -------
    xr.Dataset
        `mean` (group, block, layer), its `interval` (ci_bound, ...) and `n`, over the samples that have the block. `excess` (group, layer):
        the effect of the evidence less that of its control, over the samples that have both, with `excess_interval` and `excess_n`;
        `excess_difference` (layer), correct minus wrong, with `excess_difference_interval` and `excess_p_value`. Pictures are resampled,
        and permuted, as a whole.

    Raises
    ------
    InterpError
        `result` lacks the effect, or one of the two blocks.
    """
    if effect not in result.data_vars or not {"sample", "block", "layer"} <= set(result[effect].dims):
        raise InterpError(f"Effect {effect!r} is not in this result; use one of a knock-out's, for example delta_logprob.")
    blocks = [str(name) for name in result["block"].values]
    missing = next((name for name in _BLOCKS if name not in blocks), None)
    if missing is not None:
        raise InterpError(f"This knock-out has no block {missing!r}; run it with block=('evidence', 'control').")
    values = result[effect]
    evidence, control = (values.isel(block=blocks.index(name), drop=True) for name in _BLOCKS)
    more = (evidence - control).assign_attrs(
        {**values.attrs, "long_name": f"{values.attrs.get('long_name', effect)}, beyond the control's"}
    )
    how = {"strata": strata, "n_permutations": n_permutations, "n_resamples": n_resamples, "level": level, "seed": seed}
    # as objects: blocks are compared with plain strings by whoever selects one
    each = by_correctness(values.assign_coords(block=blocks), result, correct, **how)
    excess = by_correctness(more, result, correct, **how)
    names = {"mean": "excess", "interval": "excess_interval", "n": "excess_n", "difference": "excess_difference"}
    names |= {"difference_interval": "excess_difference_interval", "p_value": "excess_p_value"}
    return (
        each[["mean", "interval", "n"]]
        .merge(excess.rename(names), combine_attrs="override")
        .assign_attrs({**excess.attrs, "effect": effect})
    )
