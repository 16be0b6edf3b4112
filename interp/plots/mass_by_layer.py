"""How much of the last prompt token's attention falls on the pictures, layer by layer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plots.template import SEGMENT_COLOURS, caption, finish


def mass_by_layer(mass: xr.DataArray, name: str = "image") -> go.Figure:
    """Mean over samples and heads of `mass` (sample, layer, head) against depth; the band spans the heads' means.

    The attributes of the trace it came from (`model`, `benchmark`, ...) make the caption; put them on `mass` with ``assign_attrs``.
    """
    by_head = mass.mean("sample")
    low, middle, high = by_head.min("head").values, by_head.mean("head").values, by_head.max("head").values
    layers, colour = mass["layer"].values, SEGMENT_COLOURS.get(name, "#1f77b4")
    figure = go.Figure(
        [
            go.Scatter(
                x=np.concatenate([layers, layers[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                mode="lines",
                fill="toself",
                fillcolor=colour,
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                name="lowest to highest head",
            ),
            go.Scatter(x=layers, y=middle, mode="lines+markers", line={"color": colour, "width": 2.5}, name="mean of heads"),
        ]
    )
    figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 8))
    figure.update_yaxes(title_text=f"attention mass on {name} tokens", range=[0, 1])
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"})
    return finish(figure, f"Attention on {name} tokens by layer", caption(mass.attrs, mass.sizes["sample"]), width=720, height=440)
