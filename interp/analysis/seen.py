"""Seen: whether the map ranks a sample's evidence above other places in the same picture, more than chance would.

Two nulls, always both. `placed`: boxes of the evidence's size anywhere off it. `distractor`: the other candidates of the question. A
rule that looks at the places *off* the evidence calls a little more than 5 % of random places seen: attention is smooth, so where chance
puts the evidence near a peak, the peak's neighbourhood is missing from the null. Every verdict therefore comes with the rate at which
the same rule would call a random place seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import rankdata

from interp.analysis.auroc import OverlapRule, counts_as_evidence, evidence_labels
from interp.analysis.blocks import blocks, without_token_labels
from interp.analysis.matching import positions
from interp.analysis.nulls import BoxSet, Tokens
from interp.analysis.profile import Profile, profiled_map
from interp.errors import InterpError

NULLS = ("placed", "distractor")
PERCENTILE = 0.95

_Floats = NDArray[np.float64]
_REGIONS = ("coverage", "evidence_box", "evidence_image", "evidence_role", "image_size", "token_box", "image_index")
_KEPT = ("image_id", "visibility")
_COLUMNS = ("threshold", "seen", "p_value", "n_null", "false_positive_rate")
_UNDEFINED = (np.nan, np.nan, np.nan, 0, np.nan)


def seen(
    ds: xr.Dataset,
    profile: Profile | None,
    n_null: int = 200,
    seed: int = 0,
    map: xr.DataArray | None = None,
    *,
    rule: OverlapRule | None = None,
) -> xr.Dataset:
    """Whether each sample's evidence is seen, on the profiled map (paper Eq. 1).

    Evidence is seen where the map's AUROC on its tokens exceeds the 95th percentile of the same map's AUROC on null boxes. Every AUROC,
    the evidence's too, is of a place's tokens against all other tokens of the sample's pictures, so that they are exchangeable where the
    map does not know the evidence; a token that two places share counts for both.

    Parameters
    ----------
    ds
        A trace.
    profile
        The visual-grounding layers. May be None where `map` is given.
    n_null
        Boxes of the `placed` null: the evidence's boxes, shifted together, inside what the tokens cover, without overlap with the
        evidence. Fewer where the picture has no room.
    seed
        Of the placement; each sample has its own stream, so its verdict does not depend on the samples beside it.
    map
        Another map to judge, (sample, token), matched by the samples' names.
    rule
        Which tokens count as a place's (see `evidence_labels`); by default as where the profile was fitted, and "any" without one.

    Returns
    -------
    xr.Dataset
        `auroc` (sample,) on the evidence, and over (sample, null):

        - `threshold`: the value to exceed. Of n null boxes it is the ``ceil(0.95 (n + 1))``-th smallest AUROC, and with fewer than 20
          the largest (rank 1 among all).
        - `seen`: 1 or 0, NaN where undefined: no evidence token, or no null box.
        - `p_value`: rank among the null boxes, ``(1 + at least as high) / (1 + n)``.
        - `n_null`: null boxes with at least one token.
        - `false_positive_rate`: how often the rule calls a place seen that is none. `distractor`: ``1 / (n + 1)`` for fewer than 20.
          `placed`: measured on the map itself, by judging `n_null` boxes placed anywhere in the evidence's stead, each against
          those that do not overlap it.

        Only regions of role `distractor` make the distractor null: an anchor is no candidate answer, and it is looked at because the
        question names it.

    Raises
    ------
    InterpError
        Neither a profile nor a map is given, the map has other samples or tokens, `rule` is unknown, or `n_null` is below 1.
    """
    if n_null < 1:
        raise InterpError(f"n_null={n_null} leaves no null box; use 200.")
    if rule is None:
        rule = profile.rule if profile else "any"
    scores = _map(ds, profile, map)
    rows: list[tuple[float, tuple[Any, ...], tuple[Any, ...]]] = []
    for block in blocks(ds, *_REGIONS):
        part = scores[len(rows) : len(rows) + block.sizes["sample"]]
        rows += _judge_block(block, part, n_null, seed, rule)
    tables = np.array([row[1:] for row in rows], dtype=np.float64)
    result = xr.Dataset(
        {name: (("sample", "null"), tables[..., column]) for column, name in enumerate(_COLUMNS)},
        coords={"sample": ds["sample"], "null": list(NULLS), **{name: ds[name] for name in _KEPT if name in ds.coords}},
        attrs={
            "overlap_rule": rule,
            "percentile": PERCENTILE,
            "seed": seed,
            "layers": list(profile.layers) if profile and map is None else "",
        },
    )
    result["auroc"] = ("sample", np.array([row[0] for row in rows]))
    result["n_null"] = result["n_null"].astype(np.int64)
    for name, text in _LONG_NAMES.items():
        result[name].attrs = {"long_name": text, "units": "1"}
    return result


_LONG_NAMES = {
    "auroc": "AUROC of the map on evidence tokens",
    "threshold": "95th percentile of the map's AUROC on null boxes",
    "seen": "evidence is seen",
    "p_value": "rank of the evidence's AUROC among the null boxes",
    "n_null": "null boxes",
    "false_positive_rate": "expected rate of seen for a place that is none",
}


def _map(ds: xr.Dataset, profile: Profile | None, given: xr.DataArray | None) -> _Floats:
    if given is None:
        if profile is None:
            raise InterpError("Neither a profile nor a map was given to judge what is seen; pass a profile of interp.profile_layers.")
        given = profiled_map(ds, profile)
    if set(given.dims) != {"sample", "token"} or any(given.sizes[dim] != ds.sizes[dim] for dim in ("sample", "token")):
        raise InterpError(
            f"The map has dimensions {dict(given.sizes)}, but the trace has {ds.sizes['sample']} samples of {ds.sizes['token']} tokens; "
            "give a map (sample, token) of this trace."
        )
    table = np.asarray(given.transpose("sample", "token").values, dtype=np.float64)
    return table[positions(ds, given, "the trace", "the map")]


def _judge_block(
    block: xr.Dataset, scores: _Floats, n_null: int, seed: int, rule: OverlapRule
) -> Iterator[tuple[float, tuple[Any, ...], tuple[Any, ...]]]:
    # Arrays once per block: an xarray selection per sample would cost more than the judgement.
    marked = evidence_labels(without_token_labels(block["coverage"]), rule).values
    boxes, images, sizes = block["token_box"].values, block["image_index"].values, block["image_size"].values.astype(np.float64)
    regions, region_images = block["evidence_box"].values, block["evidence_image"].values
    roles, names = block["evidence_role"].values.astype(object), block["sample"].values.astype(object)
    for k in range(block.sizes["sample"]):
        kept = ~np.isnan(marked[k]) & ~np.isnan(scores[k])
        tokens = Tokens.of(boxes[k, kept], images[k, kept], sizes[k])
        evidence = BoxSet.of(regions[k, roles[k] == "evidence"], region_images[k, roles[k] == "evidence"], tokens)
        if not len(evidence.boxes) or not 0 < marked[k, kept].sum() < kept.sum():
            yield np.nan, _UNDEFINED, _UNDEFINED
            continue
        others = roles[k] == "distractor"
        rng = np.random.default_rng([seed, *hashlib.sha256(str(names[k]).encode()).digest()])
        yield _judge(
            _Ranked(scores[k, kept], rule),
            tokens,
            marked[k, kept] == 1,
            evidence,
            regions[k, others],
            region_images[k, others],
            n_null,
            rng,
        )


def _judge(
    ranked: _Ranked,
    tokens: Tokens,
    marked: NDArray[np.bool_],
    evidence: BoxSet,
    candidates: _Floats,
    candidate_images: NDArray[np.integer],
    n_null: int,
    rng: np.random.Generator,
) -> tuple[float, tuple[Any, ...], tuple[Any, ...]]:
    own = float(ranked.aurocs(marked[None])[0])
    off = evidence.copies(tokens, n_null, rng, off=True)
    anywhere = evidence.copies(tokens, n_null, rng, off=False)
    shares = [tokens.shares(np.concatenate([off, anywhere]), evidence.images)]
    shares += [tokens.shares(box[None, None], image[None]) for box, image in zip(candidates, candidate_images, strict=True)]
    placed, random, others = np.split(ranked.on(np.concatenate(shares)), [len(off), len(off) + len(anywhere)])
    real = ~np.isnan(random)
    rate = _rate(random[real], evidence.apart(anywhere[real], anywhere[real]))
    n = int((~np.isnan(others)).sum())
    by_rank = (n + 1 - float(_needed(np.array(n)))) / (n + 1)
    return own, _verdict(own, placed, rate), _verdict(own, others, by_rank)


class _Ranked:
    """One map, ranked once: the AUROC of any number of places is then a matrix product (Mann-Whitney U from average ranks)."""

    def __init__(self, scores: _Floats, rule: OverlapRule) -> None:
        self._ranks = rankdata(scores)
        self._rule: OverlapRule = rule

    def aurocs(self, marked: NDArray[np.bool_]) -> _Floats:
        """AUROC (place,) of the tokens `marked` (place, token) against the rest; NaN where either is empty."""
        n1 = marked.sum(axis=1)
        n0 = marked.shape[1] - n1
        wins = marked.astype(np.float64) @ self._ranks - n1 * (n1 + 1) / 2
        return np.divide(wins, n1 * n0, out=np.full(len(marked), np.nan), where=(n1 > 0) & (n0 > 0))

    def on(self, shares: _Floats) -> _Floats:
        """AUROC (place,) of places that cover `shares` (place, token) of the tokens' regions."""
        return self.aurocs(counts_as_evidence(shares, self._rule))


def _needed(n: NDArray[np.integer]) -> NDArray[np.integer]:
    """How many of n null values the evidence must exceed."""
    return np.minimum(np.ceil(PERCENTILE * (n + 1) - 1e-9), n).astype(np.int64)


def _verdict(own: float, null: _Floats, rate: float) -> tuple[Any, ...]:
    values = np.sort(null[~np.isnan(null)])
    n = len(values)
    if n == 0:
        return _UNDEFINED
    threshold = values[_needed(np.array(n)) - 1]
    return threshold, float(own > threshold), (1 + (values >= own).sum()) / (1 + n), n, rate


def _rate(values: _Floats, apart: NDArray[np.bool_]) -> float:
    """How often the rule calls one of these boxes seen, against those `apart` (box, box) from it."""
    n = apart.sum(axis=1)
    exceeded = ((values[None, :] < values[:, None]) & apart).sum(axis=1)
    judged = n > 0
    return float((exceeded[judged] >= _needed(n[judged])).mean()) if judged.any() else np.nan
