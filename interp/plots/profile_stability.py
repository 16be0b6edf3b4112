"""Visual-grounding layers: each layer's AUROC on the evidence, and how many samples it takes to find the same layers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.plots.curves import bars, layer_axis, require
from interp.plots.template import FAINT, INK, SECTION_COLOURS, caption, finish, head_lines, interval_note, provenance

_PICKED = SECTION_COLOURS["evidence"]


def profile_stability(profile: xr.Dataset, stability: xr.Dataset) -> go.Figure:
    """Left, mean AUROC of every layer, the profiled ones in colour; right, the share of these that smaller profiles find.

    Parameters
    ----------
    profile
        Over `layer`: `mean`, `interval` (ci_bound, layer) and `selected`, 1 or 0; with provenance.
    stability
        Over `count`, the samples that a profile was fitted on: `mean`, the share of the full profile's layers found, `interval`
        (ci_bound, count), and `chance`, what as many random layers would share.

    Raises
    ------
    InterpError
        A data set lacks a variable.
    """
    require(profile, "profile_stability", "mean, interval and selected over layer", "mean", "interval", "selected", "layer")
    require(stability, "profile_stability", "mean, interval and chance over count", "mean", "interval", "chance", "count")
    titles = ["AUROC on the evidence", "profiled layers found again"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.1, column_widths=[0.6, 0.4])
    head_lines(figure)
    layers, mean = profile["layer"].values, profile["mean"].values
    bounds = profile["interval"].transpose("ci_bound", "layer").values
    picked = profile["selected"].values == 1
    for keep, colour in ((~picked, INK), (picked, _PICKED)):
        figure.add_trace(
            go.Scatter(
                x=layers[keep],
                y=mean[keep],
                mode="markers",
                marker={"size": 8, "color": colour},
                error_y={**bars(mean[keep], bounds[:, keep]), "color": colour},
                hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    layer_axis(figure, layers, row=1, col=1)
    spread = np.concatenate([mean, bounds.ravel(), [0.5]])
    low, high = float(np.nanmin(spread)), float(np.nanmax(spread))
    figure.update_yaxes(title_text="mean AUROC", range=[low - 0.03, high + 0.03], row=1, col=1)
    figure.add_hline(y=0.5, line={"color": "#444444", "width": 1, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    counts, share = [f"{int(n)}" for n in stability["count"].values], stability["mean"].values
    limits = stability["interval"].transpose("ci_bound", "count").values
    figure.add_trace(
        go.Scatter(
            x=list(range(len(counts))),
            y=share,
            mode="lines+markers",
            line={"color": _PICKED, "width": 2},
            error_y={**bars(share, limits), "color": FAINT},
            hovertemplate="%{y:.2f}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    chance = float(stability["chance"].values[0])
    figure.add_hline(y=chance, line={"color": "#888888", "width": 2, "dash": "dot"}, row=1, col=2)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(title_text="samples", tickvals=list(range(len(counts))), ticktext=counts, row=1, col=2)
    figure.update_yaxes(title_text="share", range=[-0.04, 1.06], row=1, col=2)
    note = interval_note(profile["interval"], "Bars")
    text = (
        "Orange: the profiled layers. Right: of these, the share that a profile on fewer samples finds, mean over bootstrap draws of whole "
        f"pictures with the middle 95 % of the draws; dotted, as many random layers ({chance:.2f}). {note}"
    )
    n = int(profile.attrs.get("n", stability["count"].values[-1]))
    return finish(figure, "Visual-grounding layers", [text, caption(provenance(profile), n)], width=900, height=320, top=84)
