"""Shares with their intervals, a row each, beside what chance or others would give."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import bars, faded, require
from interp.plots.template import FAINT, GROUP_COLOURS, INK, caption, finish, interval_note, provenance
from interp.plots.text import lines, plain, width

_ROW, _NAME, _ACROSS, _BESIDE = 28, 350, 430, 150


def shares(found: xr.Dataset, title: str, text: str, band: tuple[float, float, str] | None = None) -> go.Figure:
    """One row a share, in the order given.

    Parameters
    ----------
    found
        Over `row`: `mean`, `interval` (ci_bound, row) and `n`, and where there is one `expected`, which stands as a grey stroke. The
        coordinate `row` holds the labels; a coordinate `group` (row) with ``correct`` or ``wrong`` colours them. With provenance.
    title, text
        What is shown, and how to read it.
    band
        Bounds and name of a range to compare with.

    Raises
    ------
    InterpError
        `found` is not such a data set, or holds no row.
    """
    require(found, "shares", "mean, interval and n over row", "mean", "interval", "n", "row")
    names = [str(name) for name in found["row"].values]
    if not names:
        raise InterpError("There is no share to draw; give one row or more.")
    mean, bounds = found["mean"].values.astype(float), found["interval"].transpose("ci_bound", "row").values.astype(float)
    groups = [str(name) for name in found["group"].values] if "group" in found.coords else [""] * len(names)
    colours = [GROUP_COLOURS.get(group, INK) for group in groups]
    rows = list(range(len(names)))
    figure = go.Figure()
    if band is not None:
        low, high, _ = band
        figure.add_vrect(x0=low, x1=high, fillcolor=faded("#e69f00", 0.25), line_width=0, layer="below")
    if "expected" in found:
        stroke = {"symbol": "line-ns-open", "size": 15, "color": "#888888", "line": {"width": 3}}
        expected = found["expected"].values.astype(float)
        figure.add_trace(
            go.Scatter(x=expected, y=rows, mode="markers", marker=stroke, hovertemplate="chance %{x:.1%}<extra></extra>", showlegend=False)
        )
    figure.add_trace(
        go.Scatter(
            x=mean,
            y=rows,
            mode="markers",
            marker={"size": 9, "color": colours},
            error_x={**bars(mean, bounds), "color": FAINT},
            customdata=bounds.T,
            hovertemplate="%{x:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}]<extra></extra>",
            showlegend=False,
        )
    )
    for y, value, low, high, n in zip(rows, mean, *bounds, found["n"].values, strict=True):
        shown = "none" if np.isnan(value) else f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}], n = {int(n):,}"
        place = {"x": 1, "y": y, "xshift": 8, "xanchor": "left", "yanchor": "middle", "showarrow": False}
        figure.add_annotation(text=shown, xref="x domain", yref="y", font={"size": 11, "color": FAINT}, **place)
    labels = [lines(name, _NAME, at_most=1)[0] for name in names]
    left = round(max(width(label, 13) for label in labels)) + 34
    values = np.concatenate([mean, bounds.ravel(), [0.0], *([[band[0], band[1]]] if band is not None else [])])
    top = float(np.nanmax(np.concatenate([values, found["expected"].values.astype(float) if "expected" in found else []])))
    figure.update_xaxes(range=[-0.03 * top, 1.05 * (top or 1.0)], tickformat=".0%" if top > 0.1 else ".1%", nticks=6)
    ticks = [plain(label) for label in labels]
    figure.update_yaxes(tickvals=rows, ticktext=ticks, range=[len(rows) - 0.5, -0.5], showgrid=False)
    notes = [text, "Grey strokes: what the same rule would give by chance." if "expected" in found else ""]
    notes += [f"Shaded: {band[2]}." if band is not None else "", interval_note(found["interval"], "Bars")]
    counts = sorted({int(n) for n in found["n"].values})
    shown = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return finish(
        figure,
        title,
        [" ".join(note for note in notes if note), caption(provenance(found), shown)],
        width=left + _ACROSS + _BESIDE + 40,
        height=_ROW * max(2, len(rows)),
        top=48,
        left=left,
        right=_BESIDE + 40,
        gap=44,
    )
