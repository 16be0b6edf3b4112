"""Where the answer lives: how much of it a patch of each layer and token group brings back."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import layer_axis
from interp.plots.template import DIVERGING, INK, MISSING, bar, caption, count, finish, provenance

_ROW = 44


def patching_map(recovery: xr.Dataset) -> go.Figure:
    """Mean normalised recovery (layer, group), or (layer, head), as a heat map: 0 is the corrupted run, 1 the clean one.

    Parameters
    ----------
    recovery
        `mean`, `n` over layer and group (or head), as ``mean_interval(patched["recovery"].rename(pair="sample"), ...)`` gives them, with
        the attributes of the patching.

    Raises
    ------
    InterpError
        The mean has other dimensions.
    """
    mean = recovery["mean"]
    rows = next((dim for dim in ("group", "head") if dim in mean.dims), None)
    if rows is None or set(mean.dims) != {"layer", rows}:
        raise InterpError(f"This figure shows (layer, group) or (layer, head), not {mean.dims}; give it the mean recovery of patch.")
    table = mean.transpose(rows, "layer").values.astype(float)
    layers = mean["layer"].values
    names = [str(name) for name in mean[rows].values]
    reach = max(1.0, float(np.nanmax(np.abs(table), initial=0.0)))
    figure = go.Figure(
        go.Heatmap(
            x=layers,
            y=np.arange(len(names)),
            z=table,
            colorscale=DIVERGING,
            zmid=0,
            zmin=-reach,
            zmax=reach,
            colorbar=bar("recovery"),
            text=np.array([[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in table], dtype=object),
            texttemplate="%{text}" if len(layers) <= 16 and len(names) <= 12 else None,
            textfont={"size": 11, "color": INK},
            hovertemplate="layer %{x}: %{z:.3f}<extra></extra>",
        )
    )
    layer_axis(figure, layers)
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False)
    step = next(s for s in (1, 2, 4, 8, 16, 32) if len(names) / s <= 17)
    ticks = list(range(0, len(names), step))
    title = None if rows == "group" else "head"
    figure.update_yaxes(tickvals=ticks, ticktext=[names[k] for k in ticks], title_text=title, showgrid=False)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5] if rows == "group" else [-0.5, len(names) - 0.5])
    attrs = provenance(recovery)
    text = "Recovery of the logit difference, mean over pairs: 0 is the run that was patched, 1 the run it was patched from."
    how = ", ".join(f"{name} {attrs[name]}" for name in ("pairs", "site", "direction") if attrs.get(name))
    about = [text, caption(attrs, count(recovery["n"], mean), how.capitalize())]
    height = max(200, min(420, _ROW * len(names)))
    left = 130 if rows == "group" else 64
    return finish(figure, "Activation patching", about, width=800, height=height, right=104, left=left).update_layout(plot_bgcolor=MISSING)
