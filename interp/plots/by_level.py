"""How a score moves when something is turned up step by step: a panel for each thing that is turned, a curve for each method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import caption, count, finish, head_lines, interval_note, method_colours, provenance
from interp.plots.text import plain, shown

_PANEL, _GAP, _LEFT, _RIGHT = 300, 28, 64, 24


def by_level(panels: Mapping[str, xr.Dataset], title: str, text: str, axis: str, zero: float | None = None) -> go.Figure:
    """One panel a mapping's entry, all on one scale.

    Parameters
    ----------
    panels
        By what is turned: `mean` (level, method), `interval` (ci_bound, level, method) and `n` (level, method). The coordinate `level`
        holds labels, in the order they stand. With provenance.
    title, text, axis
        What is shown, how to read it, and what the scores are.
    zero
        Where no difference would lie: a line there.

    Raises
    ------
    InterpError
        No panel is given, or one is no such data set.
    """
    if not panels:
        raise InterpError("No panel was given to draw; give one or more.")
    for panel in panels.values():
        require(panel, "by_level", "mean, interval and n over level and method", "mean", "interval", "n", "level", "method")
    names = list(dict.fromkeys(str(name) for panel in panels.values() for name in panel["method"].values))
    colours = method_colours(names)
    across = max(500, len(panels) * _PANEL + (len(panels) - 1) * _GAP)
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        subplot_titles=[shown(name, _PANEL - 20, 13, 1) for name in panels],
        horizontal_spacing=_GAP / across,
    )
    head_lines(figure)
    named: set[str] = set()
    spread: list[float] = [] if zero is None else [zero]
    for column, panel in enumerate(panels.values(), start=1):
        ordered = panel[["mean", "interval", "n"]].transpose("ci_bound", "level", "method")
        several = ordered.sizes["method"]
        for k, name in enumerate(str(each) for each in ordered["method"].values):
            one = ordered.isel(method=k)
            mean, bounds = one["mean"].values.astype(float), one["interval"].values.astype(float)
            spread += [*mean, *bounds.ravel()]
            figure.add_trace(
                go.Scatter(
                    x=np.arange(len(mean)) + 0.05 * (k - (several - 1) / 2),  # so that no bar hides another
                    y=mean,
                    mode="lines+markers",
                    line={"color": colours[name], "width": 2},
                    marker={"size": 7, "color": colours[name]},
                    error_y={**bars(mean, bounds), "color": colours[name], "thickness": 1.2, "width": 3},
                    name=name,
                    legendgroup=name,
                    showlegend=name not in named,
                    customdata=np.stack([*bounds, one["n"].values.astype(float)], axis=1),
                    hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], n = %{customdata[2]:.0f}",
                ),
                row=1,
                col=column,
            )
            named.add(name)
        labels = [plain(str(label)) for label in panel["level"].values]
        figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[-0.4, len(labels) - 0.6], row=1, col=column)
    finite = np.array(spread)[np.isfinite(spread)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    figure.update_yaxes(range=[low - pad, high + pad], nticks=8)
    figure.update_yaxes(title_text=plain(axis), row=1, col=1)
    if zero is not None:
        figure.add_hline(y=zero, line={"color": "#444444", "width": 1})  # pyright: ignore[reportArgumentType]
    first = next(iter(panels.values()))
    numbers = sorted({count(panel["n"], panel["mean"]) for panel in panels.values()})
    return finish(
        figure,
        title,
        [f"{text} {interval_note(first['interval'], 'Bars')}", caption(provenance(first), " / ".join(numbers))],
        width=_LEFT + across + _RIGHT,
        height=300,
        top=104,
        left=_LEFT,
        right=_RIGHT,
        gap=44,
        legend=30,
    )
