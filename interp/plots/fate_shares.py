"""Where wrong answers were lost: the share of each class, with intervals, for every group."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import caption, finish, interval_note, provenance

_COLOURS = ("#8c8c8c", "#56b4e9", "#e69f00", "#0072b2", "#d55e00")


def fate_shares(result: xr.Dataset, null: str = "distractor") -> go.Figure:
    """Shares of the wrong answers, a cluster of bars per group and a bar per class.

    Parameters
    ----------
    result
        What `interp.analysis.fates` gave.
    null
        Which null decides what was seen.

    Raises
    ------
    InterpError
        `result` is something else, lacks the null, or no wrong answer has a class.
    """
    require(result, "fate_shares", "the result of fates", "share", "interval", "n", "group", "fate", "null")
    nulls = [str(name) for name in result["null"].values]
    if null not in nulls:
        raise InterpError(f"Null {null!r} is not in this result; it holds {', '.join(nulls)}.")
    one = result.isel(null=nulls.index(null))
    groups = [(str(name), int(n)) for name, n in zip(one["group"].values, one["n"].values, strict=True) if n > 0]
    if not groups:
        raise InterpError("No wrong answer of this result has a class, so there is nothing to draw; see its `undefined`.")
    kept = one.isel(group=[k for k, n in enumerate(one["n"].values) if n > 0])
    figure = go.Figure()
    labels = [f"{name}<br>n = {n:,}" for name, n in groups]
    for k, fate in enumerate(str(name) for name in kept["fate"].values):
        share = kept["share"].isel(fate=k).values
        spread = kept["interval"].isel(fate=k).transpose("ci_bound", "group").values
        figure.add_trace(
            go.Bar(
                x=list(range(len(labels))),
                y=share,
                name=fate,
                marker_color=_COLOURS[k % len(_COLOURS)],
                error_y={**bars(share, spread), "width": 2},
                hovertemplate="%{y:.2f}",
            )
        )
    top = float(np.nanmax(kept["interval"].values, initial=0.5))
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[-0.5, len(labels) - 0.5], showgrid=False)
    figure.update_yaxes(title_text="share of the wrong answers", range=[0, min(1.02, top + 0.05)])
    attrs = provenance(result)
    expected = one["expected"].isel(group=0)
    chance = ", ".join(
        f"{step!s} {float(value):.2f}" for step, value in zip(one["step"].values, expected.values, strict=True) if np.isfinite(value)
    )
    text = f"Each wrong answer is in the first class that fits, seen against {null} boxes. {interval_note(result['interval'], 'Bars')}"
    text += f" Chance would pass a step at these rates: {chance}." if chance else ""
    return finish(
        figure,
        "Where wrong answers were lost",
        [text, caption(attrs, f"{groups[0][1]:,} wrong answers")],
        width=max(640, min(1120, 150 * len(groups) + 200)),
        height=340,
        top=96,
        legend=16,
    )
