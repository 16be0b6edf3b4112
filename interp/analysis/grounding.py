"""Every way to ask whether attention is on the evidence: five metrics of one ranking, and what a random ranking would get."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp.analysis.auroc import OverlapRule, auroc_measure, evidence_labels, has_contrast, over_tokens, refuse_without_evidence
from interp.analysis.blocks import streamed, without_token_labels
from interp.analysis.painted import PLACES, on_pixels
from interp.analysis.ranking import Ranks, over_ranks
from interp.errors import InterpError

Level = Literal["layer", "head"]
Views = Literal["pooled", "each", "painted"]

_Floats = NDArray[np.float64]

_LONG_NAMES = {
    "auroc": "AUROC of attention on evidence tokens",
    "auprc": "average precision of attention on evidence tokens",
    "ndcg": "NDCG of attention on evidence tokens",
    "pointing": "share of the attention's maximum that is on evidence",
    "evidence_ratio": "mean attention on evidence tokens over mean attention on other visual tokens",
}


def auprc_kernel(scores: ArrayLike, labels: ArrayLike) -> _Floats:
    """Average precision along the last axis, as scikit-learn's `average_precision_score`. Arguments as of `auroc_kernel`; NaN where
    there is no positive.
    """
    return over_ranks(scores, labels, _auprc)[0]


def ndcg_kernel(scores: ArrayLike, labels: ArrayLike) -> _Floats:
    """NDCG over the whole ranking along the last axis: gain 1 for a positive, discount 1 / log2(1 + rank), ties averaged as in
    scikit-learn's `ndcg_score`. Arguments as of `auroc_kernel`; NaN where there is no positive.
    """
    return over_ranks(scores, labels, _ndcg)[0]


def pointing_kernel(scores: ArrayLike, labels: ArrayLike) -> _Floats:
    """The pointing game along the last axis: 1 where the maximum is a positive, 0 where not; of several maxima, the share that is.
    Arguments as of `auroc_kernel`; NaN where there is no positive.
    """
    return over_ranks(scores, labels, _pointing)[0]


def evidence_ratio_kernel(scores: ArrayLike, labels: ArrayLike) -> _Floats:
    """Mean of the positives over mean of the negatives along the last axis. Arguments as of `auroc_kernel`; NaN where a class is missing
    or all negatives are 0.
    """
    values, marks = np.asarray(scores), np.asarray(labels, dtype=np.float64)
    present = ~np.isnan(values)
    known = np.where(present, values, 0)

    def mean(chosen: NDArray[np.bool_]) -> _Floats:
        weights = chosen.astype(np.float64)
        number = weights.sum(axis=-1) if present.all() else np.einsum("...n,...n->...", present, weights)
        return np.einsum("...n,...n->...", known, weights, dtype=np.float64) / number

    with np.errstate(invalid="ignore", divide="ignore"):
        inside, outside = mean(marks > 0), mean(marks == 0)
        return np.where(outside > 0, inside / outside, np.nan)


def _auprc(ranks: Ranks) -> _Floats:
    return _per_positive(ranks, ranks.found / ranks.reach)


def _ndcg(ranks: Ranks) -> _Floats:
    gained = _discounts(int(ranks.n.max(initial=0)))
    shared = (gained[ranks.reach] - gained[ranks.above]) / (ranks.reach - ranks.above)
    with np.errstate(invalid="ignore"):
        return ranks.total(shared) / gained[ranks.n1]


def _pointing(ranks: Ranks) -> _Floats:
    return np.where(ranks.n1 > 0, ranks.total((ranks.above == 0) / ranks.reach), np.nan)


def _per_positive(ranks: Ranks, values: _Floats) -> _Floats:
    with np.errstate(invalid="ignore"):
        return ranks.total(values) / ranks.n1


def _discounts(n: int) -> _Floats:
    """Sum (n + 1,) of the first k discounts."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(n) + 2))])


def auprc(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """Average precision of `scores` (..., token) against evidence, over `token`, in (0, 1]. Arguments and errors as of `auroc`."""
    return over_tokens(auprc_kernel, scores, coverage, rule, long_name=_LONG_NAMES["auprc"])


def ndcg(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """NDCG of `scores` (..., token) against evidence, over `token`, in (0, 1]. Arguments and errors as of `auroc`.

    A random ranking is well above 0: see `grounding` for its expectation.
    """
    return over_tokens(ndcg_kernel, scores, coverage, rule, long_name=_LONG_NAMES["ndcg"])


def pointing(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """Whether the maximum of `scores` (..., token) is on evidence, over `token`, in [0, 1]. Arguments and errors as of `auroc`."""
    return over_tokens(pointing_kernel, scores, coverage, rule, long_name=_LONG_NAMES["pointing"])


def evidence_ratio(scores: xr.DataArray, coverage: xr.DataArray, rule: OverlapRule = "any") -> xr.DataArray:
    """Mean of `scores` (..., token) on evidence over their mean on other visual tokens, 0 or more, chance 1. Arguments and errors as of
    `auroc`.
    """
    return over_tokens(evidence_ratio_kernel, scores, coverage, rule, long_name=_LONG_NAMES["evidence_ratio"], chance=1.0)


def grounding(ds: xr.Dataset, level: Level = "layer", rule: OverlapRule = "any", views: Views = "pooled") -> xr.Dataset:
    """How well attention finds the evidence among the visual tokens.

    Parameters
    ----------
    ds
        A trace with `attention` and `coverage`; read in blocks.
    level
        Of every head, or of the heads' mean in each layer (paper, A.2).
    rule
        Which overlap makes a token evidence.
    views
        All views of a picture (tiles, a thumbnail) ranked together, or each by itself (a further dimension `view`), or painted onto the
        picture, overlapping views averaged, and its pixels ranked in the tokens' stead: those that no token stands for are left out, and
        `rule` is of the share of a pixel; what is said of tokens below is then of pixels. Of every head of a large picture this takes
        long.

    Returns
    -------
    xr.Dataset
        `auroc`, `auprc`, `ndcg`, `pointing`, `evidence_ratio` (sample, layer[, head][, view]), NaN where a sample has no evidence token,
        or no other, or the head cannot reach them. What a random ranking of the sample's visual tokens gets on average, exactly, per
        sample: `ndcg_chance`, `auprc_chance` (the expectation of average precision, which is above the prevalence), `pointing_chance`
        (the prevalence); an AUROC's is 0.5, an evidence ratio's 1. Painted, where the pixels of a token are tied, `ndcg_chance` is near
        and `auprc_chance` NaN. In the attributes `n_undefined`, the samples without a contrast between evidence and other tokens, and the
        trace's provenance.

    Raises
    ------
    InterpError
        An argument is unknown, or no sample of the trace has an evidence token.
    """
    check_level(level)
    if views not in get_args(Views):
        raise InterpError(f"views={views!r} is unknown; use pooled, each or painted.")
    numbers = np.unique(ds["view"].values) if views == "each" else np.empty(0, dtype=int)
    numbers = numbers[numbers >= 0]

    def compute(block: xr.Dataset) -> xr.Dataset:
        if views == "painted":
            return _on_pixels(block, level, rule)
        labels = evidence_labels(without_token_labels(block["coverage"]), rule)
        if views == "each":
            of_view = block["view"].variable == xr.Variable("view", numbers)
            labels = labels.where(xr.DataArray(of_view, coords={"view": numbers}))
        return _measured(at_level(without_token_labels(block["attention"]), level), labels)

    result = streamed(ds, compute, "attention", "coverage", *{"pooled": (), "each": ("view",), "painted": PLACES}[views])
    defined = result["pointing_chance"].notnull()
    undefined = refuse_without_evidence(defined.any("view") if views == "each" else defined)
    return result.assign_attrs(ds.attrs | {"overlap_rule": rule, "level": level, "views": views, "n_undefined": undefined})


def _on_pixels(block: xr.Dataset, level: Level, rule: OverlapRule) -> xr.Dataset:
    scores = at_level(without_token_labels(block["attention"]), level)
    lead = [dim for dim in ("layer", "head") if dim in scores.dims]
    scores = scores.transpose("sample", *lead, "token")
    labelled = {name: coord for name, coord in scores.coords.items() if coord.dims == ("sample",)}
    bare, found = scores.drop_vars(labelled).isel(token=0, drop=True), []
    for k in range(block.sizes["sample"]):
        like = bare.isel(sample=k)
        maps = scores.values[k].reshape(like.size, -1)
        parts = [
            _measured(xr.DataArray(painted, dims=("map", "token")), xr.DataArray(labels, dims="token"))
            for painted, labels in on_pixels(block.isel(sample=k), maps, rule)
        ]
        columns = {name: np.concatenate([part[name].values for part in parts]).reshape(like.shape) for name in _LONG_NAMES}
        measures = {name: like.copy(data=values).assign_attrs(parts[0][name].attrs) for name, values in columns.items()}
        found.append(parts[0].drop_vars(_LONG_NAMES).assign(measures))
    joined = xr.concat(found, "sample", coords="minimal", compat="override").assign_coords(labelled)
    # the pixels of a token are tied, so that precision has no expectation that follows from their number
    result = joined.assign(auprc_chance=joined["auprc_chance"].where(False))
    for name, text in _LONG_NAMES.items():
        result[name].attrs["long_name"] = text.replace("visual tokens", "pixels").replace("tokens", "pixels")
    return result


def _measured(scores: xr.DataArray, labels: xr.DataArray) -> xr.Dataset:
    def kernel(values: ArrayLike, marks: ArrayLike) -> tuple[_Floats, ...]:
        return (*over_ranks(values, marks, auroc_measure, _auprc, _ndcg, _pointing), evidence_ratio_kernel(values, marks))

    tokens = [["token"], ["token"]]
    defined = has_contrast(labels)
    order = [dim for dim in ("sample", "map", "layer", "head", "view") if dim in scores.dims or dim in labels.dims]
    found = xr.apply_ufunc(kernel, scores, labels, input_core_dims=tokens, output_core_dims=[[]] * len(_LONG_NAMES))
    result = {
        name: values.where(defined).transpose(*order).assign_attrs(long_name=_LONG_NAMES[name], units="1")
        for name, values in zip(_LONG_NAMES, found, strict=True)
    }
    n, n1 = labels.notnull().sum("token"), (labels == 1).sum("token")
    for name, chance in {"ndcg": _ndcg_chance, "auprc": _auprc_chance, "pointing": _prevalence}.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = xr.apply_ufunc(chance, n, n1).where(defined).transpose(*[dim for dim in order if dim in n.dims])
        result[f"{name}_chance"] = expected.assign_attrs(long_name=f"{name} of a random ranking, expectation", units="1")
    return xr.Dataset(result)


def _ndcg_chance(n: NDArray[np.int64], n1: NDArray[np.int64]) -> _Floats:
    """Expected NDCG of a random ranking of `n1` positives among `n`: every place is a positive with the same probability."""
    gained = _discounts(int(n.max(initial=0)))
    return n1 / n * gained[n] / gained[n1]


def _auprc_chance(n: NDArray[np.int64], n1: NDArray[np.int64]) -> _Floats:
    """Expected average precision of a random ranking: a positive at place k has (k - 1)(n1 - 1)/(n - 1) others before it."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n.max(initial=0) + 1))])[n]
    return (harmonic + (n1 - 1) / (n - 1) * (n - harmonic)) / n


def _prevalence(n: NDArray[np.int64], n1: NDArray[np.int64]) -> _Floats:
    return n1 / n


def check_level(level: str) -> None:
    """Refuse what is not a level.

    Raises
    ------
    InterpError
        It is neither layer nor head.
    """
    if level not in get_args(Level):
        raise InterpError(f"level={level!r} is unknown; use layer (the mean over heads) or head.")


def at_level(attention: xr.DataArray, level: Level) -> xr.DataArray:
    """The heads' mean in each layer, or the heads as they are. Heads that cannot reach a token do not count in its mean."""
    return attention.mean("head") if level == "layer" else attention
