"""Which heads look at the evidence: mean AUROC of every head, coloured around chance, with the profiled layers and heads marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.analysis.profile import Profile
from interp.errors import InterpError
from interp.plots.curves import head_axes
from interp.plots.template import DIVERGING, MISSING, bar, caption, count, finish, provenance

_HEIGHT = 420


def head_grounding(auroc: xr.Dataset | xr.DataArray, profile: Profile | None = None) -> go.Figure:
    """Mean AUROC (layer, head) of the heads' attention on the evidence, as a heat map centred at chance, 0.5.

    Parameters
    ----------
    auroc
        `mean` (layer, head) and `n` (layer, head), as ``mean_interval(grounding(ds, level="head")["auroc"], ds["image_id"])`` gives them,
        with the attributes of the trace; or the mean alone, with their number as the attribute ``n``. NaN is a head without a value.
    profile
        Where given, its layers are framed and its heads have a dot.

    Raises
    ------
    InterpError
        The mean has other dimensions than layer and head.
    """
    mean = auroc["mean"] if isinstance(auroc, xr.Dataset) else auroc
    if set(mean.dims) != {"layer", "head"}:
        raise InterpError(f"This figure shows (layer, head), not {mean.dims}; give it mean_interval(auroc, image_id) of head-level AUROC.")
    n = count(auroc["n"], mean) if isinstance(auroc, xr.Dataset) else auroc.attrs.get("n", "unknown")
    table = mean.transpose("head", "layer")
    layers, heads = table["layer"].values, table["head"].values
    values = table.values.astype(float)
    reach = max(0.1, float(np.nanmax(np.abs(values - 0.5), initial=0.0)))
    figure = go.Figure(
        go.Heatmap(
            x=layers,
            y=heads,
            z=values,
            colorscale=DIVERGING,
            zmid=0.5,
            zmin=0.5 - reach,
            zmax=0.5 + reach,
            colorbar=bar("mean AUROC"),
            hovertemplate="layer %{x}, head %{y}: %{z:.3f}<extra></extra>",
        )
    )
    text = "AUROC of each head's attention on the evidence tokens, mean over samples; the scale is centred at chance, 0.5."
    text += " Grey: no value (the head cannot reach the picture)." if np.isnan(values).any() else ""
    if profile is not None:
        text += _mark(figure, profile, heads)
    head_axes(figure, layers, heads)
    about = [text, caption(provenance(auroc), n)]
    legend = 8 if profile is not None else None
    figure = finish(figure, "Grounding of every head", about, width=800, height=_HEIGHT, top=76, right=104, legend=legend)
    return figure.update_layout(plot_bgcolor=MISSING)


def _mark(figure: go.Figure, profile: Profile, heads: np.ndarray) -> str:
    """Frames around the profiled layers and dots on the profiled heads; returns what the caption says of them."""
    bottom, top = float(heads[0]) - 0.5, float(heads[-1]) + 0.5
    for first, last in _runs(profile.layers):
        figure.add_shape(type="rect", x0=first - 0.5, x1=last + 0.5, y0=bottom, y1=top, line={"color": "black", "width": 1.5})
    frame = {"symbol": "square-open", "size": 11, "color": "black", "line": {"width": 1.5}}
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=frame, name="profiled layer"))
    chosen = profile.heads
    if chosen:
        size = min(7.0, 0.55 * _HEIGHT / len(heads))
        figure.add_trace(
            go.Scatter(
                x=[layer for layer, _ in chosen],
                y=[head for _, head in chosen],
                mode="markers",
                marker={"symbol": "circle", "size": size, "color": "black", "line": {"color": "white", "width": 1}},
                name="profiled head",
                hovertemplate="layer %{x}, head %{y}<extra>profiled</extra>",
            )
        )
    return f" Framed: profiled layers ({len(profile.layers)})." + (f" Dots: profiled heads ({len(chosen)})." if chosen else "")


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive layers."""
    ordered = np.array(sorted(layers))
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts if len(part)]
