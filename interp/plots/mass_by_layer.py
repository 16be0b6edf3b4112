"""How much of the last prompt token's attention falls on the pictures, layer by layer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plots.curves import curve, layer_axis
from interp.plots.template import SECTION_COLOURS, caption, finish


def mass_by_layer(mass: xr.DataArray, name: str = "image") -> go.Figure:
    """Mean over samples and heads of `mass` (sample, layer, head) against depth; the band spans the heads' means.

    The attributes of the trace it came from (`model`, `benchmark`, ...) make the caption; put them on `mass` with ``assign_attrs``.
    """
    by_head = mass.mean("sample")
    spread = np.stack([by_head.min("head").values, by_head.max("head").values])
    layers = mass["layer"].values
    figure = go.Figure(curve(layers, by_head.mean("head").values, spread, name, SECTION_COLOURS.get(name, "#444444")))
    layer_axis(figure, layers)
    figure.update_yaxes(title_text=f"attention mass on {name} tokens", range=[0, 1])
    what = "Line: mean over samples and heads. Band: from the lowest to the highest head, each a mean over samples."
    text = [what, caption(mass.attrs, mass.sizes["sample"])]
    return finish(figure, f"Attention on {name} tokens by layer", text, width=720, height=320)
