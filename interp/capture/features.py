"""The vectors that marked regions enter the language model as, and what becomes of them: what it could know before it reads a word.

Features of the entrance alone stop the forward pass at the first decoder layer, so they cost a pass of the vision tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp.benchmarks.sample import Region, Sample
from interp.capture.labels import provenance_of_model
from interp.capture.progress import track
from interp.decoding import Run
from interp.encoding import Encoding
from interp.errors import BenchmarkError, InterpError
from interp.geometry import coverage
from interp.vlm import VLM

_TEXT = np.dtypes.StringDType()


def token_features(
    vlm: VLM,
    bench: Sequence[Sample],
    batch_size: int = 8,
    progress: bool | None = None,
    max_regions: int | None = None,
    *,
    layers: bool = False,
) -> xr.Dataset:
    """What each marked region looks like to the language model: its tokens' mean, as they enter the first decoder layer.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    batch_size
        Samples per forward pass.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.
    max_regions
        Keep only the first so many regions of a sample.
    layers
        Also follow the regions, and the last prompt token, through the decoder: both variables then have a dimension `layer`, the number
        of decoder layers passed (0: the entrance; the last: what enters the final norm). What a model adds between two layers is in what
        enters the second.

    Returns
    -------
    xr.Dataset
        `features` (sample, region, feature) float32, the mean of the token vectors, weighted by how much of each token's part of the
        picture the region covers; NaN where a sample has fewer regions, or no token shows the region. Coordinates: `region_text`,
        `region_role`, `region_box` (.., corner) in pixels, `region_image`, and per sample `image_id`, `dataset` and `split`. With
        `layers`, `features` (sample, region, layer, feature) and `last` (sample, layer, feature), the residual stream at the last prompt
        token.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample.
    InterpError
        `batch_size` or `max_regions` is below 1.
    """
    vlm.refuse_edits("token_features")
    if batch_size < 1 or (max_regions is not None and max_regions < 1):
        raise InterpError(f"batch_size ({batch_size}) and max_regions ({max_regions}) must be 1 or more.")
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    asked: list[tuple[str, str, str, str]] = []
    regions: list[tuple[Region, ...]] = []
    means: list[NDArray[np.float32]] = []
    lasts: list[NDArray[np.float32]] = []
    starts = range(0, len(bench), batch_size)
    for start in track(starts, len(starts), "reading features", progress):
        batch = [bench[k] for k in range(start, min(start + batch_size, len(bench)))]
        encodings = [vlm.encode(sample) for sample in batch]
        marked = [sample.regions[:max_regions] for sample in batch]
        weights = [_weights(encoding, each) for encoding, each in zip(encodings, marked, strict=True)]
        for sample, each, vectors in zip(batch, marked, _means(vlm, encodings, weights, layers), strict=True):
            asked.append((sample.id, sample.image_id, sample.dataset, sample.split))
            regions.append(each)
            means.append(vectors[: len(each)])
            lasts.append(vectors[-1])
    found = _assemble(vlm, asked, regions, np.concatenate(means), np.array(lasts))
    return found if layers else found.isel(layer=0, drop=True).drop_vars("last")


def _means(vlm: VLM, encodings: Sequence[Encoding], weights: Sequence[NDArray[np.float32]], layers: bool) -> list[NDArray[np.float32]]:
    """Per prompt (row of its weights, layer, feature): means of what enters each decoder layer, and the final norm; or the first alone.

    They are formed in the model's pass: all tokens at all layers of a few prompts of a large model would be tens of gigabytes.
    """
    run = Run.start(vlm.hf_model, vlm.batch(encodings), use_cache=False)
    longest, most = max(map(len, encodings)), max(map(len, weights))
    table = np.zeros((len(encodings), most, longest), dtype=np.float32)
    for row, each in zip(table, weights, strict=True):
        row[: len(each), longest - each.shape[1] :] = each  # prompts are padded on the left
    mixing = torch.as_tensor(table, device=vlm.device)
    decoder = vlm.wrapper.model.language_model.layers
    states: list[Any] = []
    with torch.no_grad(), vlm.wrapper.trace(**run.prefill_inputs(), logits_to_keep=1) as tracer:
        for layer in decoder if layers else decoder[:1]:
            states.append((mixing @ layer.input.float()).save())
        if layers:
            states.append((mixing @ decoder[-1].output.float()).save())
        tracer.stop()
    found = np.stack([state.cpu().numpy() for state in states], axis=2)
    return [np.where(each.sum(1)[:, None, None] > 0, vectors[: len(each)], np.nan) for each, vectors in zip(weights, found, strict=True)]


def _weights(encoding: Encoding, regions: Sequence[Region]) -> NDArray[np.float32]:
    """(region + 1, token) how a region's mean is formed, 0 where no token shows it; and the last token by itself."""
    weights = np.zeros((len(regions) + 1, len(encoding)), dtype=np.float32)
    weights[-1, -1] = 1
    for row, region in zip(weights, regions, strict=False):
        tokens = np.flatnonzero(encoding.image_index == region.image_index)
        shares = np.nan_to_num(coverage(encoding.token_boxes[tokens], [region.box], encoding.images[region.image_index].size))
        row[tokens] = shares / (shares.sum() or 1)
    return weights


def _assemble(
    vlm: VLM,
    asked: Sequence[tuple[str, str, str, str]],
    regions: Sequence[tuple[Region, ...]],
    means: NDArray[np.float32],
    lasts: NDArray[np.float32],
) -> xr.Dataset:
    """`means` (region of any sample, layer, feature) in the order of `regions`, `lasts` (sample, layer, feature)."""
    n, longest = len(asked), max(len(marked) for marked in regions)
    features = np.full((n, longest, *lasts.shape[1:]), np.nan, dtype=np.float32)
    boxes, images = np.full((n, longest, 4), np.nan), np.full((n, longest), -1, dtype=np.int32)
    texts, roles = np.full((n, longest), "", dtype=object), np.full((n, longest), "", dtype=object)
    ends = np.cumsum([len(marked) for marked in regions])
    for k, marked in enumerate(regions):
        features[k, : len(marked)] = means[ends[k] - len(marked) : ends[k]]
        for j, region in enumerate(marked):
            boxes[k, j], images[k, j], texts[k, j], roles[k, j] = region.box, region.image_index, region.text or "", region.role
    names = ("sample", "image_id", "dataset", "split")
    coordinates: dict[str, Any] = {name: ("sample", np.array([a[i] for a in asked], dtype=_TEXT)) for i, name in enumerate(names)}
    dims = ("sample", "region")
    coordinates |= {
        "region_text": (dims, texts.astype(_TEXT), {"long_name": "text of the region"}),
        "region_role": (dims, roles.astype(_TEXT), {"long_name": "role of the region: evidence, anchor or distractor"}),
        "region_box": ((*dims, "corner"), boxes, {"long_name": "annotated region (x0, y0, x1, y1)", "units": "pixel"}),
        "region_image": (dims, images, {"long_name": "picture the region is on"}),
        "corner": np.array(["x0", "y0", "x1", "y1"], dtype=_TEXT),
        "layer": ("layer", np.arange(lasts.shape[1]), {"long_name": "decoder layers passed"}),
    }
    return xr.Dataset(
        {
            "features": ((*dims, "layer", "feature"), features, {"long_name": "mean vector of the region's tokens"}),
            "last": (("sample", "layer", "feature"), lasts, {"long_name": "residual stream at the last prompt token"}),
        },
        coords=coordinates,
        attrs={
            **provenance_of_model(vlm),
            "benchmark": ", ".join(sorted({a[2] for a in asked})),
            "split": ", ".join(sorted({a[3] for a in asked})),
        },
    )
