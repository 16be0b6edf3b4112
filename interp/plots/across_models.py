"""Several models, a row each: how many answers are right, where attention lies, what was seen, and what highlighting does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import (
    FAINT,
    GRID,
    GROUP_COLOURS,
    INK,
    METHOD_COLOURS,
    caption,
    count,
    finish,
    head_lines,
    interval_note,
    provenance,
)
from interp.plots.text import lines, plain, width

_WIDTH, _NAME, _GAP, _RIGHT = 1120, 150, 36, 24


class _Series(NamedTuple):
    """One mark per model: its quantity, its name in the legend (none without one), colour and symbol."""

    quantity: str
    name: str
    colour: str
    symbol: str = "circle"


class _Panel(NamedTuple):
    title: str
    series: Sequence[_Series]
    level: float | None = None  # what chance gives, where it is the same for all


_WRONG = GROUP_COLOURS["wrong"]
_PANELS = (
    _Panel("exact match", [_Series("exact match, answerable", "", INK)]),
    _Panel(
        "AUROC of the profiled map",
        [_Series(f"AUROC of the profiled map, {group}", f"{group} answers", GROUP_COLOURS[group]) for group in ("correct", "wrong")],
        0.5,
    ),
    _Panel(
        "wrong answers: evidence seen",
        [
            _Series("seen, wrong, placed", "against placed boxes", _WRONG, "square"),
            _Series("seen, wrong, distractor", "against distractor boxes", _WRONG, "diamond-open"),
        ],
    ),
    _Panel(
        "exact match less inst",
        [
            _Series(f"{name} less inst", name, METHOD_COLOURS[name], "triangle-right")
            for name in ("vea", "vea-shifted", "vea-uniform", "vea-boxes")
        ],
        0.0,
    ),
)
_CHANCE = {"symbol": "line-ns-open", "size": 9, "color": "#888888", "line": {"width": 3}}


def across_models(table: xr.Dataset) -> go.Figure:
    """Exact match, AUROC of right and wrong answers, the share seen of the wrong ones beside chance, and VEA beside its controls.

    Parameters
    ----------
    table
        What `interp.across.across` gives. A panel without any number is left out, and the caption says so.

    Raises
    ------
    InterpError
        `table` is something else, or holds no number.
    """
    require(table, "across_models", "the result of across", "mean", "interval", "n", "expected", "model", "quantity")
    wanted = [series.quantity for panel in _PANELS for series in panel.series]
    missing = sorted(set(wanted) - {str(name) for name in table["quantity"].values})
    if missing:
        raise InterpError(
            f"Figure across_models needs the quantity {missing[0]!r}, which this data set lacks; give it the result of across."
        )
    known = [panel for panel in _PANELS if bool(table["mean"].sel(quantity=[s.quantity for s in panel.series]).notnull().any())]
    if not known:
        raise InterpError("This table holds no number to draw; give models with answers or a profile.")
    names = [str(name) for name in table["model"].values]
    labels = [lines(name, _NAME, at_most=2) for name in names]
    left = round(max(width(line, 13) for label in labels for line in label)) + 34
    across = _WIDTH - left - _RIGHT
    figure = make_subplots(
        rows=1,
        cols=len(known),
        shared_yaxes=True,
        subplot_titles=[plain(panel.title) for panel in known],
        horizontal_spacing=_GAP / across if len(known) > 1 else 0.0,
    )
    head_lines(figure)
    for column, panel in enumerate(known, start=1):
        _draw(figure, column, panel, table)
    for k in range(1, len(names)):
        figure.add_hline(y=k - 0.5, line={"color": GRID, "width": 1}, row="all", col="all")  # pyright: ignore[reportArgumentType]
    ticks = ["<br>".join(plain(line) for line in label) for label in labels]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5], showgrid=False)
    for column in range(2, len(known) + 1):
        figure.update_yaxes(ticks="", row=1, col=column)
    return finish(
        figure,
        "Models side by side",
        _words(table, known),
        width=_WIDTH,
        height=min(max(100, 54 * len(names)), 380),
        top=92,
        left=left,
        right=_RIGHT,
        gap=40,
        legend=26,
    )


def _draw(figure: go.Figure, column: int, panel: _Panel, table: xr.Dataset) -> None:
    """Marks of one panel, those of a model beside one another in its row."""
    spread: list[float] = [] if panel.level is None else [panel.level]
    for k, series in enumerate(panel.series):
        one = table.sel(quantity=series.quantity)
        mean, bounds = one["mean"].values.astype(float), one["interval"].transpose("ci_bound", "model").values.astype(float)
        rows = np.arange(len(mean)) + 0.19 * (k - (len(panel.series) - 1) / 2)
        spread += [*mean, *bounds.ravel()]
        if panel.level is None and bool(one["expected"].notnull().any()):
            expected = one["expected"].values.astype(float)
            spread += expected.tolist()
            figure.add_trace(_chance(expected, rows, first=k == 0), row=1, col=column)
        figure.add_trace(
            go.Scatter(
                x=mean,
                y=rows,
                mode="markers",
                marker={"size": 8, "color": series.colour, "symbol": series.symbol},
                error_x={**bars(mean, bounds), "color": FAINT, "width": 3},
                name=series.name,
                showlegend=bool(series.name),
                customdata=np.column_stack([bounds.T, one["n"].values]),
                hovertemplate="%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], n = %{customdata[2]}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    if panel.level is not None:
        figure.add_vline(x=panel.level, line={"color": "#444444", "width": 1, "dash": "dot"}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    finite = np.array(spread)[np.isfinite(spread)]
    pad = 0.08 * float(finite.max() - finite.min()) or 0.05
    figure.update_xaxes(range=[finite.min() - pad, finite.max() + pad], nticks=5, row=1, col=column)


def _chance(expected: np.ndarray, rows: np.ndarray, *, first: bool) -> go.Scatter:
    style = {"marker": _CHANCE, "name": "by chance", "legendgroup": "by chance", "showlegend": first}
    return go.Scatter(x=expected, y=rows, mode="markers", hovertemplate="chance %{x:.3f}<extra></extra>", **style)


def _words(table: xr.Dataset, known: Sequence[_Panel]) -> list[str]:
    """How to read it, of how many samples each panel is, and where it comes from."""
    left_out = [panel.title for panel in _PANELS if panel not in known]
    numbers = "; ".join(f"{panel.title} {_count(table, panel)}" for panel in known)
    text = (
        "Exact match: of base, answerable questions. Seen: share of the wrong answers whose evidence the profiled map ranks above boxes of "
        "equal size. Dotted: chance level, or no difference. Highlighting (vea) and its controls: paired differences from inst. "
        f"{interval_note(table['interval'], 'Bars')} n by panel: {numbers}."
    )
    unknown = f" Not known of any model: {', '.join(left_out)}." if left_out else ""
    asked = json.loads(table.attrs.get("n", "{}")).values()
    n = " / ".join(dict.fromkeys(str(each) for each in asked)) or "unknown"
    return [text + unknown, caption(provenance(table), n, str(table.attrs.get("note", "")))]


def _count(table: xr.Dataset, panel: _Panel) -> str:
    part = table.sel(quantity=[series.quantity for series in panel.series])
    return count(part["n"], part["mean"])
