"""How well attention ranks the evidence: area under the ROC curve of token attention against evidence labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp.analysis.blocks import streamed, without_token_labels
from interp.analysis.ranking import Ranks, over_ranks
from interp.errors import InterpError

OverlapRule = Literal["any", "half", "all"]
Kernel = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]


def auroc_measure(ranks: Ranks) -> NDArray[np.float64]:
    """AUROC of each row (rows,): the Mann-Whitney U over n1 n0. NaN where a class is missing."""
    n0 = ranks.n - ranks.n1
    # Wins of every positive over all scores, itself and the other positives included, which win n1^2 / 2 among themselves.
    wins = ranks.total(ranks.n[ranks.row] - (ranks.above + ranks.reach) / 2) - ranks.n1**2 / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((ranks.n1 > 0) & (n0 > 0), wins / (ranks.n1 * n0), np.nan)


def auroc_kernel(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """AUROC along the last axis, ties counted half, as in scikit-learn.

    `scores` (..., n); `labels` (..., n) with 1 positive, 0 negative, NaN left out (a NaN score too). Shapes broadcast. NaN where a class
    is missing. Scores in single or half precision are compared as they are, and fastest.
    """
    return over_ranks(scores, labels, auroc_measure)[0]


def counts_as_evidence(share: Any, rule: OverlapRule) -> Any:
    """Whether tokens of which evidence covers `share` (an array of any kind) count as evidence; a NaN does not.

    Raises
    ------
    InterpError
        `rule` is not one of any, half and all.
    """
    if rule not in get_args(OverlapRule):
        raise InterpError(f"Overlap rule {rule!r} is unknown; use any, half or all.")
    # a whole share carries the rounding of its geometry
    return share > 0 if rule == "any" else share >= (0.5 if rule == "half" else 1 - 1e-9)


def evidence_labels(coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """1 where a visual token counts as evidence, 0 where not, NaN off the image.

    "any" (the paper's rule) asks for some overlap, "half" for half the token's region, "all" for the whole of it.

    Raises
    ------
    InterpError
        `rule` is not one of the three.
    """
    return counts_as_evidence(coverage, rule).astype(float).where(coverage.notnull())


def auroc(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """AUROC of `scores` (..., token) against the evidence labels of `coverage` (..., token), over `token`.

    In [0, 1], chance 0.5. Samples without a positive (or without a negative) token are NaN; `n_undefined` in the attributes counts them.

    Raises
    ------
    InterpError
        `rule` is unknown, no sample has an evidence token, or the two arrays are not of the same samples.
    """
    return over_tokens(auroc_kernel, scores, coverage, rule, long_name="AUROC of attention on evidence tokens", chance=0.5)


def over_tokens(kernel: Kernel, scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule, **attrs: object) -> xr.DataArray:
    """What every metric of `scores` (..., token) against evidence labels does: `kernel` over `token`, by blocks of samples.

    NaN where a sample has no positive or no negative token: a ranking without a contrast is trivially perfect. Raises as `auroc` does.
    """
    bare, shares = without_token_labels(scores), without_token_labels(coverage)
    try:
        bare, shares = xr.align(bare, shares, join="exact", copy=False)
    except ValueError as error:
        raise InterpError("Scores and coverage are not of the same samples and tokens; take both from one trace.") from error
    undefined = refuse_without_evidence(has_contrast(evidence_labels(shares.load(), rule)))

    def compute(block: xr.Dataset) -> xr.DataArray:
        labels = evidence_labels(block["coverage"], rule)
        found = xr.apply_ufunc(kernel, block["scores"], labels, input_core_dims=[["token"], ["token"]])
        return found.where(has_contrast(labels))

    both = xr.Dataset({"scores": bare, "coverage": shares})
    result = streamed(both, compute, "scores", "coverage") if "sample" in both.dims else compute(both)
    order = [dim for dim in dict.fromkeys((*scores.dims, *coverage.dims)) if dim != "token"]
    return result.transpose(*order).assign_attrs({"units": "1", "overlap_rule": rule, "n_undefined": undefined, **attrs})


def has_contrast(labels: xr.DataArray) -> xr.DataArray:
    """Whether there is both a positive and a negative token (...)."""
    return (labels == 1).any("token") & (labels == 0).any("token")


def refuse_without_evidence(defined: xr.DataArray) -> int:
    """How many samples have no contrast between evidence and other tokens.

    Raises
    ------
    InterpError
        No sample has.
    """
    if not bool(defined.any()):
        raise InterpError("No sample has an evidence token to rank against the others; use samples with evidence boxes the model can see.")
    return int((~defined).sum())
