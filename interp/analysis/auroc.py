"""How well attention ranks the evidence: area under the ROC curve of token attention against evidence labels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from interp.errors import InterpError

OverlapRule = Literal["any", "half", "all"]


def auroc_kernel(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """AUROC along the last axis, ties counted half, as in scikit-learn.

    `scores` (..., n); `labels` (..., n) with 1 positive, 0 negative, NaN left out. Shapes broadcast. NaN where a class is missing.
    It is the Mann-Whitney U over n1 n0, from average ranks.
    """
    scores, labels = np.broadcast_arrays(np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64))
    counted = ~np.isnan(labels) & ~np.isnan(scores)
    # What is left out ranks below everything, so that subtracting its number gives the ranks among the rest.
    ranks = rankdata(np.where(counted, scores, -np.inf), axis=-1) - (~counted).sum(axis=-1, keepdims=True)
    positive = counted & (labels > 0)
    n1 = positive.sum(axis=-1)
    n0 = counted.sum(axis=-1) - n1
    wins = np.where(positive, ranks, 0.0).sum(axis=-1) - n1 * (n1 + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((n1 > 0) & (n0 > 0), wins / (n1 * n0), np.nan)


def evidence_labels(coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """1 where a visual token counts as evidence, 0 where not, NaN off the image.

    "any" (the paper's rule) asks for some overlap, "half" for half the token's region, "all" for the whole of it.

    Raises
    ------
    InterpError
        `rule` is not one of the three.
    """
    if rule not in get_args(OverlapRule):
        raise InterpError(f"Overlap rule {rule!r} is unknown; use any, half or all.")
    counts = coverage > 0 if rule == "any" else coverage >= (0.5 if rule == "half" else 1 - 1e-9)
    return counts.astype(float).where(coverage.notnull())


def auroc(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """AUROC of `scores` (..., token) against the evidence labels of `coverage` (..., token), over `token`.

    In [0, 1], chance 0.5. Samples without a positive (or without a negative) token are NaN; `n_undefined` in the attributes counts them.
    """
    labels = evidence_labels(coverage, rule)
    result = xr.apply_ufunc(auroc_kernel, scores, labels, input_core_dims=[["token"], ["token"]])
    per_sample = labels.sum("token")
    undefined = int(((per_sample == 0) | (per_sample == labels.notnull().sum("token"))).sum())
    return result.assign_attrs(long_name="AUROC of attention on evidence tokens", units="1", overlap_rule=rule, n_undefined=undefined)
