"""Fig. 3: where each layer looks on one picture, and over all samples how concentrated and how well placed its attention is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import entr

from experiments import paper
from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Result, beside_in
from experiments.artefacts.words import cells, number, percent
from interp import plots
from interp.analysis import auroc, mean_interval, profiled_map

MEASURES = {"auroc": "AUROC on the evidence", "spread": "share of the visual tokens that the attention is spread over"}


def over_layers(ds: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """By layer, means with intervals of `MEASURES` (measure, layer).

    `spread` is exp(entropy) of the layer's attention over the visual tokens, divided by their number: 1 is an even spread.
    """
    mean = ds["attention"].mean("head")
    seen = ds["coverage"].notnull()
    inside = mean.where(seen)
    share = inside / inside.sum("token")
    entropy = xr.apply_ufunc(entr, share.fillna(0.0)).sum("token")
    spread = xr.apply_ufunc(np.exp, entropy) / seen.sum("token")
    both = {"auroc": auroc(mean, ds["coverage"]), "spread": spread.where(inside.notnull().any("token"))}
    names = xr.DataArray(list(both), dims="measure", name="measure")
    parts = [mean_interval(each.transpose("sample", "layer"), ds["image_id"], seed=seed).drop_attrs() for each in both.values()]
    return xr.concat(parts, dim=names).assign_attrs(ds.attrs)


def typical(context: Context) -> tuple[xr.Dataset, int]:
    """The right answer whose profiled map has the median AUROC (without a right one, any), and its place among the samples."""
    ds = context.trace()
    quality = auroc(profiled_map(ds, context.profile()), ds["coverage"]).values
    right = np.where(ds["exact_match"].values == 1, quality, np.nan)
    values = right if np.isfinite(right).any() else quality
    place = int(np.nanargmin(np.abs(values - np.nanmedian(values))))
    return ds.isel(sample=place).load(), place


def compute(context: Context) -> Result:
    """Maps of one sample; AUROC and spread of all."""
    ds = context.trace()
    found = over_layers(ds, context.seed)
    rows = [
        {"layer": int(layer), "measure": MEASURES[name], **cells(one), "n": int(one["n"])}
        for name in MEASURES
        for layer in found["layer"].values
        for one in [found.sel(measure=name, layer=layer)]
    ]
    means = found["mean"].sel(measure="auroc")
    best = int(means["layer"].values[int(np.nanargmax(means.values))])
    ends = (found.isel(layer=0), found.sel(layer=best), found.isel(layer=-1))
    quality, spread = ([_of(one, measure) for one in ends] for measure in MEASURES)
    sentence = (
        f"AUROC of attention on the evidence is {quality[0]} in the first layer, {quality[1]} in layer {best}, the best, and "
        f"{quality[2]} in the last; attention is spread over {spread[0]} of the visual tokens in the first, {spread[1]} in layer {best}, "
        f"{spread[2]} in the last ({context.order})."
    )
    ours = f"first, best and last layer: AUROC {', '.join(quality)}; spread {', '.join(spread)}"
    beside, apart = beside_in(context.order, (ours, paper.MAPS))
    sample, place = typical(context)
    figure = plots.layer_maps(sample, context.samples()[place].open_images()[0])
    apart = apart or "The paper shows maps of one picture and no numbers."
    return Result(pd.DataFrame(rows), figure, found, sentence, beside, apart, n=int(found["n"].max()))


def _of(one: xr.Dataset, measure: str) -> str:
    part = one.sel(measure=measure)
    return (number if measure == "auroc" else percent)(part["mean"], part["interval"])


ARTEFACT = Artefact(
    "fig3",
    "Attention on the picture, layer by layer (paper, Fig. 3)",
    "Does attention become sparse and settle on the evidence with depth? The picture shown is of median AUROC, among right answers if any.",
    compute,
)
