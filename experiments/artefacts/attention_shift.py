"""Fig. 1: attention shifts from the text to the picture with depth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from experiments import paper
from experiments.artefacts.context import Context
from experiments.artefacts.interface import OTHERS, Artefact, Result, beside_in
from experiments.artefacts.words import bounds, cells, number
from interp import plots
from interp.analysis import mean_interval, rapt

SECTIONS = ("question", "image")


def shift(ds: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Mean relative attention per token by layer and section; `rise` (section), last third of the layers less first, with interval."""
    relative = rapt(ds).sel(section=list(SECTIONS))
    third = max(1, relative.sizes["layer"] // 3)
    rise = relative.isel(layer=slice(-third, None)).mean("layer") - relative.isel(layer=slice(0, third)).mean("layer")
    found = mean_interval(rise, ds["image_id"], seed=seed)
    result = mean_interval(relative, ds["image_id"], seed=seed).assign_attrs(ds.attrs)
    return result.assign(rise=found["mean"], rise_interval=found["interval"])


def compute(context: Context) -> Result:
    """Question and picture over the layers, and whether the picture gains."""
    found = shift(context.trace(), context.seed)
    rows = [
        {"section": name, "layer": int(layer), **cells(one), "n": int(one["n"])}
        for name in SECTIONS
        for layer in found["layer"].values
        for one in [found.sel(section=name, layer=layer)]
    ]
    n = int(found["n"].max())
    ends = {name: [_at(found, name, k) for k in (0, -1)] for name in SECTIONS}
    low, high = bounds(found["rise_interval"].sel(section="image"))
    height = "higher in" if low > 0 else "lower in" if high < 0 else "not clearly higher or lower in"
    rise = number(found["rise"].sel(section="image"), found["rise_interval"].sel(section="image"))
    rises = (
        f"Relative attention per token on the picture is {height} the last third of the layers than in the first (difference {rise})"
        if np.isfinite(found["rise"].sel(section="image"))
        else "In the first or the last third of the layers none reaches the picture, so whether its relative attention rises cannot be told"
    )
    sentence = (
        f"{rises}; it is {ends['image'][0]} in the first layer and {ends['image'][1]} in the last, on the question "
        f"{ends['question'][0]} and {ends['question'][1]} ({context.order})."
    )
    beside, apart = beside_in(
        context.order,
        (f"{ends['image'][0]} (first layer)", paper.IMAGE_EARLY),
        (f"{ends['image'][1]} (last layer)", paper.IMAGE_LATE),
        (f"{ends['question'][0]} (first layer)", paper.TEXT_EARLY),
    )
    apart = apart or f"{OTHERS} Its early and late layers stand beside our first and last."
    return Result(pd.DataFrame(rows), plots.attention_shift(found, SECTIONS), found, sentence, beside, apart, n=n)


def _at(found: xr.Dataset, section: str, layer: int) -> str:
    one = found.sel(section=section).isel(layer=layer)
    return number(one["mean"], one["interval"])


ARTEFACT = Artefact(
    "fig1",
    "Attention shift from text to picture over the layers (paper, Fig. 1)",
    "How much attention does a token of the question and of the picture get, relative to the prompt's average token, layer by layer?",
    compute,
)
