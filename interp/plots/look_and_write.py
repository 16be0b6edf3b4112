"""Where heads look and what they do: one point per head."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plots.curves import require, value_axis
from interp.plots.template import FAINT, bar, caption, finish, provenance

_SHADE = [[0, "#fde725"], [0.5, "#21918c"], [1, "#440154"]]


def look_and_write(heads: xr.Dataset, look: str = "grounding", write: str = "delta_logprob", marked: int = 5) -> go.Figure:
    """A scatter of two properties of the heads, coloured by depth; the heads that are extreme in either are named.

    Parameters
    ----------
    heads
        Properties (layer, head) with the attributes of the trace, as `interp.analysis.head_taxonomy` gives them.
    look, write
        The property along x and along y.
    marked
        How many heads are named for each of the two.

    Raises
    ------
    InterpError
        A property is missing.
    """
    require(heads, "look_and_write", "the result of head_taxonomy", look, write, "layer", "head")
    x, y = (heads[name].transpose("layer", "head").values.astype(float).ravel() for name in (look, write))
    layer, head = (grid.ravel() for grid in np.meshgrid(heads["layer"].values, heads["head"].values, indexing="ij"))
    known = np.isfinite(x) & np.isfinite(y)
    names = np.array([f"L{a}H{b}" for a, b in zip(layer, head, strict=True)], dtype=object)
    figure = go.Figure(
        go.Scatter(
            x=x[known],
            y=y[known],
            mode="markers",
            marker={
                "size": 7,
                "color": layer[known],
                "colorscale": _SHADE,
                "colorbar": bar("layer"),
                "line": {"width": 0.5, "color": "white"},
            },
            text=names[known],
            hovertemplate="%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
        )
    )
    extreme: dict[int, None] = {}
    for values, centre in ((x, np.nanmedian(x)), (y, 0.0)):
        order = np.argsort(-np.where(known, np.abs(values - centre), -1))
        extreme |= dict.fromkeys(int(k) for k in order[: min(marked, int(known.sum()))])
    right, left = (np.nanmax(x), np.nanmin(x)) if known.any() else (1.0, 0.0)
    for k in extreme:
        outward = "right" if x[k] > (right + left) / 2 else "left"
        figure.add_annotation(
            x=x[k],
            y=y[k],
            text=names[k],
            showarrow=False,
            font={"size": 10, "color": FAINT},
            xanchor=outward,
            xshift=-6 if outward == "right" else 6,
        )
    titles = [str(heads[name].attrs.get("long_name", name)) for name in (look, write)]
    value_axis(figure, y, titles[1])
    pad = 0.06 * (right - left) or 0.1
    figure.update_xaxes(title_text=titles[0], range=[left - pad, right + pad])
    figure.add_hline(y=0, line={"dash": "dot", "color": "#888888", "width": 1})
    attrs = provenance(heads)
    rank = f" Spearman's rank correlation: {attrs['spearman']}." if attrs.get("spearman") else ""
    text = f"One point per head ({int(known.sum())} of {known.size} have both values), each a mean over samples.{rank}"
    return finish(
        figure, "Where heads look, and what they do", [text, caption(attrs, attrs.get("n", "unknown"))], width=760, height=420, right=104
    )
