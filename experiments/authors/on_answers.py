"""What faults do to answers: every fault is a way of answering, beside the corrected equations, in one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

import interp
from experiments.authors import equations, scores
from experiments.authors.equations import Faults
from experiments.authors.on_maps import CASES, paired
from experiments.authors.pictures import Painter, cropped, pixels, squashed
from interp.analysis import Profile, holm, mean_interval
from interp.methods import Batch, Method, Reply

Rendering = Callable[[Image.Image], Image.Image]

# Row of the table: the faulty way of answering, and the one it is compared with.
_ROWS = {
    **{name: (f"with {name}", "corrected") for name in CASES},
    "constant, wherever it strikes": ("dimmed", "inst"),
    "rendering, centre crop": ("cropped", "corrected"),
    "rendering, squashed": ("squashed", "corrected"),
    "profiling": ("judged layers", "corrected"),
}


def answer(
    vlm: interp.VLM, bench: Sequence[interp.Sample], profile: Profile, judged: Profile, side: int, batch_size: int, store: Path
) -> xr.Dataset:
    """All ways of answering; `side` is that of the attributing model's rendering."""
    painter = Painter()

    def way(name: str, summary: str, faults: Faults = equations.NONE, layers: Sequence[int] = (), seen: Rendering | None = None) -> Method:
        def reply(batch: Batch) -> Sequence[Reply]:
            pictures = []
            for k, sample in enumerate(batch.samples):
                picture = sample.open_images()[0]
                found = painter.map(sample.id, batch.seen(k), layers or profile.layers, picture.size, faults)
                shown = Image.fromarray(equations.shown(pixels(picture), found, batch.options.alpha, faults))
                pictures.append(seen(shown) if seen is not None else shown)
            return batch.ask("vea", _about(batch.samples, pictures))

        return Method(name, summary, reply, needs_map=True)

    def dimmed(batch: Batch) -> Sequence[Reply]:
        pictures = [pixels(sample.open_images()[0]) for sample in batch.samples]
        return batch.ask("vea", _about(batch.samples, [_half(picture, batch.options.alpha) for picture in pictures]))

    methods: list[str | Method] = [
        "base",
        "inst",
        "vea",
        way("corrected", "Equations 1 to 4 written anew, without a fault"),
        *(way(f"with {name}", f"the same, with the fault: {name}", faults) for name, faults in CASES.items()),
        Method("dimmed", "what a constant map makes of any picture", dimmed),
        way("cropped", "the highlighted picture as its centre crop is rendered", seen=lambda picture: cropped(picture, side)),
        way("squashed", "the highlighted picture as a squashing model renders it", seen=lambda picture: squashed(picture, side)),
        way("judged layers", "corrected, with the layers chosen on the judged samples", layers=judged.layers),
    ]
    return interp.evaluate(vlm, bench, methods, profile, batch_size=batch_size, store=store)


def study(answers: xr.Dataset, bench: Sequence[interp.Sample]) -> pd.DataFrame:
    """One row per fault: both scores, and the paired difference with interval, p and Holm's p over all rows."""
    images = xr.DataArray(answers["image_id"].values.astype(object), dims="sample", name="image_id")
    names = [str(name) for name in answers["method"].values]
    exact, likely = (dict(zip(names, answers[score].values, strict=True)) for score in ("exact_match", "reference_logprob"))
    predictions = [str(text) for text in answers["prediction"].sel({"method": "base"}).values]
    f1 = answers["token_f1"].sel({"method": "base"}).values

    def theirs(score: Callable[[str, Sequence[str]], float]) -> np.ndarray:
        return np.array([score(text, sample.references) for text, sample in zip(predictions, bench, strict=True)])

    rows = {name: (exact[faulty], exact[against], *(likely[faulty], likely[against])) for name, (faulty, against) in _ROWS.items()}
    unknown = np.full(len(bench), np.nan)
    rows["containment"] = (theirs(scores.exact_match), exact["base"], unknown, unknown)
    rows["set F1 (token F1)"] = (theirs(scores.token_f1), f1, unknown, unknown)
    scored = np.stack([faulty for faulty, *_ in rows.values()])
    gained = scored - np.stack([right for _, right, *_ in rows.values()])
    spread = mean_interval(xr.DataArray(scored, dims=("fault", "sample")), images)["interval"].transpose("ci_bound", "fault").values
    own = {"corrected": (scored - gained).mean(axis=1), "theirs": scored.mean(axis=1), "theirs_lower": spread[0], "theirs_upper": spread[1]}
    table = paired(list(rows), gained, images, "score").assign(**own)
    surer = {name: faulty - right for name, (*_, faulty, right) in rows.items() if np.isfinite(right).any()}
    table = table.merge(paired(list(surer), np.stack(list(surer.values())), images, "logprob"), on="fault", how="left")
    p_values = [f"{score}_p_permutation" for score in ("score", "logprob")]
    adjusted = holm(table[p_values].to_numpy().ravel()).reshape(-1, 2)  # both scores are in one table
    return table.assign(**{f"{name.removesuffix('permutation')}holm_permutation": adjusted[:, k] for k, name in enumerate(p_values)})


def _about(samples: Sequence[interp.Sample], pictures: Sequence[Image.Image]) -> list[interp.Sample]:
    """The same questions about other pictures, on which the boxes need not lie."""
    return [replace(sample, images=(picture,), regions=()) for sample, picture in zip(samples, pictures, strict=True)]


def _half(picture: np.ndarray, alpha: float) -> Image.Image:
    return Image.fromarray(equations.shown(picture, np.zeros(picture.shape[:2]), alpha))
