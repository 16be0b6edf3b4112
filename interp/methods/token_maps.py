"""Where each method would have one look, token by token, so that all of them can be held against the evidence alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis import Profile
from interp.benchmarks.sample import Sample
from interp.capture.attention import serving_rows
from interp.capture.facts import TEXT, Facts, identify
from interp.capture.labels import description, pad, provenance_of_model, static
from interp.capture.progress import track
from interp.errors import BenchmarkError, InterpError
from interp.methods.agla import attributed
from interp.methods.batch import Batch, Options
from interp.methods.own_tokens import answer_rows, reaching_layers, visual
from interp.methods.propagation import relevance_map, rollout_map
from interp.vlm import VLM

_Values = Sequence[NDArray[np.floating]]  # per sample (token,), of the visual tokens


def _layers(batch: Batch, first: float, last: float) -> _Values:
    n = batch.vlm.n_layers
    chosen = slice(int(first * n), int(last * n))
    means = [xr.DataArray(rows[chosen]).astype(np.float64).mean(["dim_0", "dim_1"]).values for rows in batch.own_attention]
    return [values[visual(batch, k)] for k, values in enumerate(means)]


def _profiled(batch: Batch) -> _Values:
    return [values[visual(batch, k)] for k, values in enumerate(batch.profiled)]


def _of_answer(batch: Batch) -> _Values:
    found = answer_rows(batch, reaching_layers(batch.vlm)[-1])
    return [np.full(visual(batch, k).sum(), np.nan) if values is None else values for k, values in enumerate(found)]


def _gradcam(batch: Batch) -> _Values:
    return attributed(batch)[0]


def _through_layers(batch: Batch, of: Callable[..., NDArray[np.float64]], passes: int) -> _Values:
    found = []
    for k, sample in enumerate(batch.samples):
        encoding = batch.vlm.encode(sample)
        found.append(of(batch.vlm, encoding)[visual(batch, k)])
        batch.processed({sample.id: passes * len(encoding)})
    return found


_MAPS: Mapping[str, Callable[[Batch], _Values]] = {
    "layers-0-100": partial(_layers, first=0, last=1),
    "layers-0-50": partial(_layers, first=0, last=0.5),
    "layers-50-100": partial(_layers, first=0.5, last=1),
    "vea": _profiled,
    "var": _of_answer,
    "agla": _gradcam,
    "rollout": partial(_through_layers, of=rollout_map, passes=1),
    "gradient-relevance": partial(_through_layers, of=relevance_map, passes=3),
}
_NEEDS_PROFILE = "vea"


def attribution_maps(
    vlm: VLM,
    bench: Sequence[Sample],
    names: Sequence[str] | None = None,
    profile: Profile | None = None,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 16,
    allow_overlap: bool = False,
    progress: bool | None = None,
) -> xr.Dataset:
    """Maps of several methods on the visual tokens of the base prompt (paper, attribution table), without a highlighted picture.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    names
        Some of: ``layers-0-100``, ``layers-0-50``, ``layers-50-100``, the last prompt token's attention, mean over the heads of all
        layers, the first and the second half; ``vea``, over the profiled ones (Eq. 1, before spikes are replaced and anything is
        smoothed); ``var``, the base answer's attention in the last layer (not inverted, as its colour map is); ``agla``, GradCAM of the
        model itself in place of a matching model (see `interp.methods.agla`); ``rollout``, attention rollout through all layers (mean
        over heads, nothing discarded); ``gradient-relevance``, the gradient-weighted rollout of Chefer et al. By default all, without
        ``vea`` where there is no profile.
    profile
        The visual-grounding layers of this model, fitted on other pictures; for ``vea``.
    batch_size
        Samples per forward pass. ``rollout`` and ``gradient-relevance`` run one by one and hold the full attention of all layers, the
        latter of all heads, with its gradients.
    max_new_tokens
        Longest answer, in tokens; for ``var``.
    allow_overlap
        Accept pictures that the profile was fitted on; recorded.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        `map` (method, sample, token), NaN off the pictures, and for ``var`` after an empty answer; a layer or head that cannot reach a
        token does not count. `coverage` (sample, token), so that `interp.analysis.auroc` and `interp.analysis.ndcg` take the two as they
        are. `seconds` and `passes` (method, sample), the cost of a map by itself, as in `interp.evaluate`. Coordinates and provenance as
        in a trace.

    Raises
    ------
    InterpError
        A name is unknown or asked for twice, ``vea`` lacks its profile, the profile cannot judge these pictures, or the model is edited.
    BenchmarkError
        The benchmark has no sample, or two of one id.

    Examples
    --------
    >>> maps = interp.methods.attribution_maps(vlm, bench, profile=profile)  # doctest: +SKIP
    >>> interp.analysis.auroc(maps["map"], maps["coverage"]).mean("sample").to_series()  # doctest: +SKIP
    """
    chosen = _chosen(names, profile)
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    if batch_size < 1 or max_new_tokens < 1:
        raise InterpError(f"batch_size ({batch_size}) and max_new_tokens ({max_new_tokens}) must be 1 or more.")
    vlm.refuse_edits("attribution_maps")
    identify(bench)  # refuses an id that occurs twice, before the work
    if profile is not None:
        profile.check(provenance_of_model(vlm), {sample.image_id for sample in bench}, allow_overlap=allow_overlap)
    facts: list[Facts] = []
    maps: list[NDArray[np.float32]] = []
    costs: list[NDArray[np.float64]] = []
    starts = range(0, len(bench), batch_size)
    with serving_rows(vlm.hf_model):
        for start in track(starts, len(starts), "attributing", progress):
            samples = [bench[k] for k in range(start, min(start + batch_size, len(bench)))]
            batch = Batch(vlm, samples, Options(max_new_tokens=max_new_tokens), profile, keep_rows=True)
            made = {name: batch.charged(_MAPS[name]) for name in chosen}
            for k, (fact, digests) in enumerate(zip(batch.facts, batch.sha256, strict=True)):
                facts.append(Facts(**{**vars(fact), "sha256": digests}))
                table = np.full((len(chosen), len(fact)), np.nan, np.float32)
                table[:, visual(batch, k)] = [values[k] for values, _, _ in made.values()]
                maps.append(table)
                costs.append(np.array([(seconds / len(samples), passes[k]) for _, seconds, passes in made.values()]))
    settings = {"prompt": "base", "max_new_tokens": max_new_tokens, "allow_overlap": allow_overlap}
    settings |= {"profile_layers": list(profile.layers) if profile else []}
    known = static(facts, vlm, settings).drop_dims(["layer", "head"])
    return _labelled(known, chosen, maps, costs)


def _chosen(names: Sequence[str] | None, profile: Profile | None) -> list[str]:
    if names is None:
        return [name for name in _MAPS if name != _NEEDS_PROFILE or profile is not None]
    asked = [names] if isinstance(names, str) else list(names)
    for place, name in enumerate(asked):
        if name not in _MAPS:
            raise InterpError(f"Map {name!r} is unknown; use some of {', '.join(_MAPS)}.")
        if name in asked[:place]:
            raise InterpError(f"Map {name!r} is asked for twice; name each map once.")
    if not asked:
        raise InterpError(f"No map is named; use some of {', '.join(_MAPS)}.")
    if _NEEDS_PROFILE in asked and profile is None:
        raise InterpError(f"Map {_NEEDS_PROFILE!r} needs a layer profile; pass profile=interp.profile_layers(trace of another split).")
    return asked


def _labelled(known: xr.Dataset, names: Sequence[str], maps: Sequence[NDArray[Any]], costs: Sequence[NDArray[Any]]) -> xr.Dataset:
    both = ("method", "sample")
    seconds, passes = np.stack(costs).transpose(2, 1, 0)
    table = pad(maps, np.nan, np.float32).transpose(1, 0, 2)
    cost = {"long_name": "tokens through the decoder, in lengths of the base prompt", "units": "1"}
    return known.assign(
        map=((*both, "token"), table, {"long_name": "attribution of the answer to the token", "units": "1"}),
        seconds=(both, seconds, description("seconds")),
        passes=(both, passes, cost),
    ).assign_coords(method=("method", np.array(names, dtype=TEXT), {"long_name": "way of attributing"}))
