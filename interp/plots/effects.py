"""Quantities with their intervals, a row each under headings: how far each is from nothing, and how sure that is."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import FAINT, INK, caption, finish, interval_note, provenance
from interp.plots.text import lines, plain, width

_ROW, _NAME, _ACROSS, _LINE, _TALLEST = 26, 330, 400, 11, 520


def effects(found: xr.Dataset, title: str, text: str, axis: str, zero: float | None = 0.0) -> go.Figure:
    """One row a quantity, in the order given.

    Parameters
    ----------
    found
        Over `row`: `mean`, `interval` (ci_bound, row), `n`, and where they were tested `p`, after its correction. The coordinate `row`
        holds the labels; a coordinate `group` (row) puts a heading above the rows that follow one another with the same one. With
        provenance.
    title, text, axis
        What is shown, how to read it, and what the numbers are.
    zero
        Where nothing would lie: a line there. None draws none.

    Raises
    ------
    InterpError
        `found` is not such a data set, or holds no number.
    """
    require(found, "effects", "mean, interval and n over row", "mean", "interval", "n", "row")
    mean, bounds = found["mean"].values.astype(float), found["interval"].transpose("ci_bound", "row").values.astype(float)
    if not np.isfinite(mean).any():
        raise InterpError("There is no number to draw; give one row with a mean or more.")
    names = [str(name) for name in found["row"].values]
    groups = [str(name) for name in found["group"].values] if "group" in found.coords else [""] * len(names)
    places, heads, at = [], [], 0
    for k, group in enumerate(groups):
        if group and (k == 0 or groups[k - 1] != group):
            heads.append((at, group))
            at += 1
        places.append(at)
        at += 1
    shown = [_beside(found.isel(row=k)) for k in range(len(names))]
    labels = [lines(name, _NAME, at_most=1)[0] for name in names]
    titles = [lines(group, _NAME, at_most=1)[0] for _, group in heads]
    left = round(max(width(label, 13) for label in [*labels, *titles]) * 1.08) + 34
    right = round(max(width(each, _LINE) for each in shown)) + 28
    figure = go.Figure(
        go.Scatter(
            x=mean,
            y=places,
            mode="markers",
            marker={"size": 8, "color": INK},
            error_x={**bars(mean, bounds), "color": FAINT},
            customdata=bounds.T,
            hovertemplate="%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        )
    )
    for y, said in zip(places, shown, strict=True):
        place = {"x": 1, "y": y, "xshift": 8, "xanchor": "left", "yanchor": "middle", "showarrow": False}
        figure.add_annotation(text=plain(said), xref="x domain", yref="y", font={"size": _LINE, "color": FAINT}, **place)
    values = np.concatenate([mean, bounds.ravel(), [] if zero is None else [zero]])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = 0.06 * (high - low) or 0.05
    if zero is not None:
        figure.add_vline(x=zero, line={"color": "#444444", "width": 1})  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(range=[low - pad, high + pad], nticks=7, title_text=plain(axis))
    ticks = [(y, plain(label)) for y, label in zip(places, labels, strict=True)]
    ticks += [(y, f"<b>{plain(label)}</b>") for (y, _), label in zip(heads, titles, strict=True)]
    figure.update_yaxes(tickvals=[y for y, _ in ticks], ticktext=[label for _, label in ticks], range=[at - 0.5, -0.5], showgrid=False)
    counts = sorted({int(n) for n in found["n"].values[np.isfinite(mean)]})
    tested = "p: after Holm's correction over all of this table's tests. " if "p" in found else ""
    return finish(
        figure,
        title,
        [
            f"{text} {tested}{interval_note(found['interval'], 'Bars')}",
            caption(provenance(found), f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"),
        ],
        width=left + _ACROSS + right,
        height=round(min(_ROW * max(2, at), _TALLEST)),
        top=48,
        left=left,
        right=right,
    )


def _beside(one: xr.Dataset) -> str:
    value = float(one["mean"])
    if np.isnan(value):
        return "none"
    low, high = (float(v) for v in one["interval"].values)
    between = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    p = float(one["p"]) if "p" in one else np.nan
    tested = "" if np.isnan(p) else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    return f"{value:.3f}{between}, n = {int(one['n']):,}{tested}"
