"""A taxonomy of heads: where each one looks, by the criteria of several papers, beside what it writes and what it does.

Grounding AUROC (this package); the two criteria of localization heads, image attention and spatial entropy (arXiv 2503.06287); the share
of visual attention that is on evidence (VERA, arXiv 2602.10146); the share that is on sink tokens (arXiv 2503.03321).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.stats import rankdata

from interp.analysis.auroc import OverlapRule, evidence_labels
from interp.analysis.blocks import blocks, without_token_labels
from interp.analysis.bootstrap import cluster_numbers, cluster_totals, mean_interval, resamples
from interp.analysis.grounding import grounding
from interp.analysis.mass import segment_mass
from interp.analysis.matching import positions
from interp.errors import InterpError

SKIPPED_LAYERS = 2  # localization heads are not looked for in the first two layers
_NEIGHBOURS = np.ones((3, 3), dtype=int)
_DIMS = ("sample", "layer", "head")
_LOOKS = ("coverage", "view", "row", "col", "image_index", "attention")

_Floats = NDArray[np.float64]

_LONG_NAMES = {
    "grounding": "AUROC of attention on the evidence",
    "image_mass": "attention on visual tokens",
    "evidence_share": "share of visual attention on evidence",
    "spatial_entropy": "entropy of the components of the attention map, nats",
    "selected": "among the least scattered heads that look at the picture",
    "sink_share": "share of visual attention on sink tokens",
}


def head_measures(
    ds: xr.Dataset,
    sinks: xr.DataArray | None = None,
    effects: Mapping[str, xr.DataArray] | None = None,
    *,
    rule: OverlapRule = "any",
    n_selected: int = 10,
) -> xr.Dataset:
    """Every head's measures, per sample.

    Parameters
    ----------
    ds
        A trace.
    sinks
        (sample, layer, token) whether a token is an attention sink in what enters the layer (`interp.capture.sinks`); without it there is
        no `sink_share`.
    effects
        Further measures (sample, layer, head) by name: a sweep's `delta_logprob`, a head's direct logit attribution. Samples are matched
        by name.
    rule
        Which tokens count as evidence.
    n_selected
        How many heads a sample selects (the paper's 10).

    Returns
    -------
    xr.Dataset
        Over (sample, layer, head): `grounding`, AUROC on the evidence; `image_mass`, attention on visual tokens; `evidence_share`, the part
        of it on evidence; `spatial_entropy`, of the 8-neighbour components of the map of the first picture's first view, binarised at its
        mean, by their size; `selected`, whether the head is among the sample's `n_selected` of lowest entropy of those whose mean image
        attention reaches the point of largest curvature of the sorted curve (attribute `image_mass_threshold`), layers 0 and 1 left out;
        `sink_share`; and the effects. NaN where undefined.

    Raises
    ------
    InterpError
        An effect or `sinks` has other dimensions, or lacks a sample of the trace.
    """
    auroc = grounding(ds, level="head", rule=rule)["auroc"]
    mass = segment_mass(ds)
    if sinks is not None and set(sinks.dims) != {"sample", "layer", "token"}:
        raise InterpError(f"`sinks` has dimensions {sinks.dims}; it must be (sample, layer, token).")
    sunk = None if sinks is None else _sunk(ds, sinks)
    shares, entropies, sunken, at = [], [], [], 0
    for block in blocks(ds, *_LOOKS):
        n = block.sizes["sample"]
        attention = np.nan_to_num(without_token_labels(block["attention"]).transpose(*_DIMS, "token").values)
        marks = evidence_labels(without_token_labels(block["coverage"]), rule).values
        seen = np.isfinite(marks)
        looked = np.einsum("slht,st->slh", attention, seen)
        shares.append(_share(np.einsum("slht,st->slh", attention, np.nan_to_num(marks) > 0), looked))
        if sunk is not None:
            on_sinks = sunk[at : at + n] & seen[:, None]
            sunken.append(_share(np.einsum("slht,slt->slh", attention, on_sinks), looked))
        entropies.append(_entropies(attention, block))
        at += n
    entropy = np.concatenate(entropies)
    threshold = _knee(mass.transpose(*_DIMS).mean("sample").values)
    columns: dict[str, _Floats] = {
        "grounding": auroc.transpose(*_DIMS).values,
        "image_mass": mass.transpose(*_DIMS).values,
        "evidence_share": np.concatenate(shares),
        "spatial_entropy": entropy,
        "selected": _selected(entropy, mass.transpose(*_DIMS).mean("sample").values, threshold, n_selected),
    }
    if sunk is not None:
        columns["sink_share"] = np.concatenate(sunken)
    variables = {name: (_DIMS, values, {"long_name": _LONG_NAMES[name], "units": "1"}) for name, values in columns.items()}
    coordinates = {name: ds[name] for name in ("sample", "layer", "head", "image_id", "layer_kind") if name in ds.coords}
    attrs = {**ds.attrs, "overlap_rule": rule, "image_mass_threshold": threshold, "n_selected": n_selected}
    result = xr.Dataset(variables, coords=coordinates, attrs=attrs)
    for name, effect in (effects or {}).items():
        if set(effect.dims) != set(_DIMS):
            raise InterpError(f"Effect {name!r} has dimensions {effect.dims}; it must be (sample, layer, head).")
        values = effect.isel(sample=positions(ds, effect, "the trace", f"effect {name!r}")).transpose(*_DIMS).values
        result[name] = (_DIMS, values.astype(np.float64), dict(effect.attrs))
    return result


def head_taxonomy(measures: xr.Dataset, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """The heads' mean measures, and how far they agree.

    Parameters
    ----------
    measures
        Of `head_measures`.
    level, n_resamples, seed
        Of the intervals, bootstrapped over pictures.

    Returns
    -------
    xr.Dataset
        Every measure as its mean (layer, head), with ``<measure>_interval`` (ci_bound, layer, head). `selected` so becomes the selection
        frequency. `rank_correlation` (measure, other), Spearman's over the heads that have both means, with
        `rank_correlation_interval` (ci_bound, ...): pictures are resampled and the means formed anew, so it says how far the ranking would
        change with other pictures, not with other heads. `n_heads` (measure, other).

    Raises
    ------
    InterpError
        There is no `image_id` to resample.
    """
    if "image_id" not in measures.coords:
        raise InterpError("These measures have no coordinate image_id to resample; take those of head_measures.")
    names = [str(name) for name in measures.data_vars]
    result = xr.Dataset(attrs=dict(measures.attrs))
    pictures = measures["image_id"]
    for name in names:
        spread = mean_interval(measures[name], pictures, level=level, n_resamples=n_resamples, seed=seed)
        result[name] = spread["mean"].assign_attrs(measures[name].attrs)
        result[f"{name}_interval"] = spread["interval"]
    member = cluster_numbers(pictures.values)
    table = np.stack([measures[name].transpose(*_DIMS).values.reshape(len(member), -1) for name in names], axis=1).astype(np.float64)
    sums, counts = cluster_totals(table.reshape(len(member), -1), member)
    draws = resamples(len(sums), n_resamples, seed)
    shape = (len(names), -1)
    own = _correlations(_means(sums.sum(0), counts.sum(0)).reshape(shape))
    drawn = np.stack([_correlations(_means(draw @ sums, draw @ counts).reshape(shape)) for draw in draws])
    tails = [(1 - level) / 2, 1 - (1 - level) / 2]
    bounds = np.full((2, *own.shape), np.nan)
    known = np.isfinite(own) & (len(sums) > 1)
    bounds[:, known] = np.nanquantile(drawn[:, known], tails, axis=0) if known.any() else np.nan
    means = _means(sums.sum(0), counts.sum(0)).reshape(shape)
    both = np.isfinite(means)[:, None] & np.isfinite(means)[None]
    pair = ("measure", "other")
    text = f"{level:.0%} percentile bootstrap interval over image_id"
    return result.assign(
        rank_correlation=(pair, own, {"long_name": "Spearman's rank correlation over heads", "units": "1"}),
        rank_correlation_interval=(("ci_bound", *pair), bounds, {"long_name": text, "level": level}),
        n_heads=(pair, both.sum(-1), {"long_name": "heads with both measures", "units": "1"}),
    ).assign_coords(measure=names, other=names, ci_bound=["lower", "upper"])


def layer_matched(
    heads: NDArray[np.intp], n_heads: int, n_draws: int, seed: int = 0, avoid: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Random heads, as many in every layer as `heads` (head, 2) of (layer, head) has there: the control of a set of heads.

    Returns
    -------
    (n_draws, head, 2). Of a draw only as many are in `avoid` (k, 2), and then in `heads`, as the layer lacks others.
    """
    rng = np.random.default_rng(seed)
    chosen = np.asarray(heads, dtype=np.intp).reshape(-1, 2)
    avoided = chosen[:0] if avoid is None else np.asarray(avoid, dtype=np.intp).reshape(-1, 2)
    draws = np.empty((n_draws, len(chosen), 2), dtype=np.intp)
    for draw in draws:
        draw[:, 0] = chosen[:, 0]
        for layer in np.unique(chosen[:, 0]):
            places = np.flatnonzero(chosen[:, 0] == layer)
            rank = np.zeros(n_heads)  # whom to take first
            rank[avoided[avoided[:, 0] == layer, 1]] = 1
            rank[chosen[places, 1]] = 2
            draw[places, 1] = np.argsort(rank + 0.5 * rng.random(n_heads))[: len(places)]
    return draws


def random_heads(
    n_chosen: int, n_layers: int, n_heads: int, n_draws: int, seed: int = 0, avoid: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Random heads of any layer: the control that does not keep to the layers of a set, beside `layer_matched`.

    Returns
    -------
    (n_draws, n_chosen, 2) of (layer, head). Of a draw only as many are in `avoid` (k, 2) as the model lacks others.

    Raises
    ------
    InterpError
        The model has fewer heads than are to be chosen.
    """
    if not 0 <= n_chosen <= n_layers * n_heads:
        raise InterpError(f"{n_chosen} heads cannot be chosen of {n_layers} x {n_heads}; ask for fewer.")
    rng = np.random.default_rng(seed)
    kept_off = np.empty((0, 2), np.intp) if avoid is None else np.asarray(avoid, dtype=np.intp).reshape(-1, 2)
    free = np.setdiff1d(np.arange(n_layers * n_heads), kept_off[:, 0] * n_heads + kept_off[:, 1])
    others = np.setdiff1d(np.arange(n_layers * n_heads), free)
    draws = [np.concatenate([rng.permutation(free), rng.permutation(others)])[:n_chosen] for _ in range(n_draws)]
    return np.stack(np.divmod(np.stack(draws), n_heads), axis=-1)


def _sunk(ds: xr.Dataset, sinks: xr.DataArray) -> NDArray[np.bool_]:
    """(sample, layer, token) of the trace's samples. Both are padded behind the prompt, to the longest of their own samples."""
    found = sinks.isel(sample=positions(ds, sinks, "the trace", "`sinks`")).transpose("sample", "layer", "token").values.astype(bool)
    if found.shape[1] != ds.sizes["layer"]:
        raise InterpError(f"`sinks` has {found.shape[1]} layers and the trace {ds.sizes['layer']}; make both with the same model.")
    n = ds.sizes["token"]
    return np.pad(found[..., :n], ((0, 0), (0, 0), (0, max(n - found.shape[2], 0))))


def _share(part: NDArray[np.floating], whole: NDArray[np.floating]) -> _Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan).astype(np.float64)


def _entropies(attention: NDArray[np.floating], block: xr.Dataset) -> _Floats:
    """(sample, layer, head) entropy of the map of each sample's first picture, first view."""
    entropies = np.full(attention.shape[:3], np.nan)
    rows, cols = block["row"].values, block["col"].values
    first = (block["view"].values == 0) & (block["image_index"].values == 0) & (rows >= 0)
    for k in range(len(attention)):
        tokens = np.flatnonzero(first[k])
        if not len(tokens):
            continue
        map_ = np.zeros((*attention.shape[1:3], rows[k, tokens].max() + 1, cols[k, tokens].max() + 1))
        map_[..., rows[k, tokens], cols[k, tokens]] = attention[k][..., tokens]
        for layer, head in np.ndindex(*attention.shape[1:3]):
            entropies[k, layer, head] = spatial_entropy(map_[layer, head])
    return entropies


def spatial_entropy(map_: NDArray[np.floating]) -> float:
    """Entropy, nats, of the sizes of the 8-neighbour components of a map (row, col) binarised at its mean (2503.06287, criterion 2).

    NaN for a map that is 0 everywhere.
    """
    if not map_.any():
        return np.nan
    components = np.empty(map_.shape, dtype=np.int32)
    label(map_ > map_.mean(), structure=_NEIGHBOURS, output=components)
    sizes = np.bincount(components.ravel())[1:]
    shares = sizes / max(int(sizes.sum()), 1)
    return float(-(shares * np.log(shares)).sum()) if len(sizes) else np.nan


def _knee(masses: NDArray[np.floating]) -> float:
    """The image attention at the point of largest curvature of the sorted curve, both axes scaled to one (2503.06287, criterion 1)."""
    curve = np.sort(masses[np.isfinite(masses)].ravel())
    if len(curve) < 5 or curve[-1] <= curve[0]:
        return float(curve[0]) if len(curve) else 0.0
    x, y = np.linspace(0, 1, len(curve)), (curve - curve[0]) / (curve[-1] - curve[0])
    slope = np.gradient(y, x)
    bend = np.gradient(slope, x) / (1 + slope**2) ** 1.5
    return float(curve[1:-1][np.argmax(bend[1:-1])])


def _selected(entropy: _Floats, masses: NDArray[np.floating], threshold: float, n_selected: int) -> _Floats:
    able = (np.nan_to_num(masses) >= threshold) & (np.arange(len(masses)) >= SKIPPED_LAYERS)[:, None]
    ranked = np.where(able & np.isfinite(entropy), entropy, np.inf).reshape(len(entropy), -1)
    order = np.argsort(ranked, axis=1, kind="stable")[:, :n_selected]
    chosen = np.zeros_like(ranked)
    np.put_along_axis(chosen, order, 1.0, axis=1)
    return np.where(np.isinf(ranked), 0.0, chosen).reshape(entropy.shape)


def _means(sums: _Floats, counts: _Floats) -> _Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def _correlations(means: _Floats) -> _Floats:
    """Spearman's rank correlations (measure, measure) of means (measure, head), each pair over the heads that have both."""
    known = np.isfinite(means)
    found = np.full((len(means), len(means)), np.nan)
    # most measures are defined for the same heads, and are then ranked once for all pairs
    kinds, kind = np.unique(known, axis=0, return_inverse=True)
    for one, other in zip(*np.triu_indices(len(kinds)), strict=True):
        both = kinds[one] & kinds[other]
        members = np.flatnonzero((kind == one) | (kind == other))
        if both.sum() < 3:
            continue
        ranks = rankdata(means[np.ix_(members, both)], axis=1)
        ranks -= ranks.mean(1, keepdims=True)
        size = np.sqrt((ranks**2).sum(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            table = np.where(size[:, None] * size > 0, ranks @ ranks.T / (size[:, None] * size), np.nan)
        mine = kind[members]
        wanted = ((mine[:, None] == one) & (mine == other)) | ((mine[:, None] == other) & (mine == one))
        a, b = np.nonzero(wanted)
        found[members[a], members[b]] = table[a, b]
    return found
