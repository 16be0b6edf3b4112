"""The disconnect as one figure: seen x readable x correct, and of each group the share seen beside what chance would give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import FAINT, GROUP_COLOURS, INK, ROLE_COLOURS, caption, finish, head_lines, provenance

_SHADES = [[0, "#ffffff"], [1, "#9ecae1"]]
_LEFT, _PANEL, _BESIDE, _CELL, _ROW, _BETWEEN = 214, 300, 138, 44, 30, 62


class _Share(NamedTuple):
    """One row of the lower panel: its words, the group it is a share of, and where the result keeps it."""

    words: str
    group: str
    value: str
    interval: str
    expected: str
    at: dict[str, str]


def _share(words: str, group: str, outcome: str | None = None) -> _Share:
    if outcome is None:
        return _Share(words, group, "seen_share", "seen_interval", "seen_expected", {"group": group})
    return _Share(words, group, "outcome_share", "outcome_interval", "outcome_expected", {"outcome": outcome})


_SHARES = (
    _share("correct answers: seen", "correct"),
    _share("wrong answers: seen", "wrong"),
    _share("<b>seeing but not believing</b>", "wrong", "seeing but not believing"),
    _share("wrong answers: misread", "wrong", "misread"),
    _share("wrong answers: unseen", "wrong", "unseen"),
)


def disconnect_table(result: xr.Dataset) -> go.Figure:
    """A column for each null. Above, the samples by seen, readable and correct; below, shares with intervals and their chance level.

    A null that no sample could be held against is left out, and the caption says so.

    Parameters
    ----------
    result
        What `interp.analysis.disconnect` gave.

    Raises
    ------
    InterpError
        `result` is something else, or no sample was judged.
    """
    needed = ["count", "share", "interval", "n", "excluded", "visibility_count", "seen_share", "seen_interval", "seen_expected"]
    require(result, "disconnect_table", "the result of disconnect", *needed, "outcome_share", "outcome_interval", "outcome_expected")
    nulls = [str(null) for null in result["null"].values]
    judged = [null for null in nulls if int(result["n"].sel(null=null)) > 0]
    if not judged:
        raise InterpError("No sample of this result was judged, so there is no table to draw; see its `excluded`.")
    shares = [share for share in _SHARES if bool(np.isfinite(_take(result, share.value, share.at)).any())]
    cells = _CELL * result.sizes["seen"] * result.sizes["readable"]
    below = _ROW * len(shares)
    height, across = cells + _BETWEEN + below, len(judged) * _PANEL + (len(judged) - 1) * _BESIDE
    figure = make_subplots(
        rows=2,
        cols=len(judged),
        shared_yaxes=True,
        row_heights=[cells, below],
        vertical_spacing=_BETWEEN / height,
        horizontal_spacing=_BESIDE / across if len(judged) > 1 else 0.0,
        subplot_titles=[_heading(result, null) for null in judged],
    )
    head_lines(figure).update_annotations(yshift=22)
    for column, null in enumerate(judged, start=1):
        _table(figure, result.sel(null=null), column)
        _below(figure, result.sel(null=null), shares, column, len(judged) + column)
    return finish(
        figure,
        "Seen, readable, correct",
        _words(result, nulls, judged),
        width=_LEFT + across + _BESIDE,
        height=height,
        top=88,
        left=_LEFT,
        right=_BESIDE,
        gap=44,
    )


def _heading(result: xr.Dataset, null: str) -> str:
    quoted = ", the headline" if null == result.attrs.get("headline") and result.sizes["null"] > 1 else ""
    return f"against {null} boxes{quoted}: n = {int(result['n'].sel(null=null)):,}"


def _table(figure: go.Figure, one: xr.Dataset, column: int) -> None:
    """The cells of one null, with count, share and interval; the seen, readable and wrong are framed."""
    order = ("seen", "readable", "correct")
    share = one["share"].transpose(*order).values
    low, high = one["interval"].transpose("ci_bound", *order).values
    count = one["count"].transpose(*order).values
    reads = [str(name) for name in one["readable"].values]
    rows = [saw if reads == ["unknown"] else f"{saw}, {read}" for saw in map(str, one["seen"].values) for read in reads]
    wide = len(one["correct"])
    text = [
        f"<b>{n:,}</b>  {_percent(s)}<br>{_range(a, b)}" for n, s, a, b in zip(count.flat, share.flat, low.flat, high.flat, strict=True)
    ]
    figure.add_trace(
        go.Heatmap(
            z=np.nan_to_num(share.reshape(-1, wide)),
            text=np.array(text, dtype=object).reshape(-1, wide),
            texttemplate="%{text}",
            textfont={"size": 12, "color": INK},
            colorscale=_SHADES,
            zmin=0,
            zmax=max(float(np.nanmax(share)), 0.01),
            showscale=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        ),
        row=1,
        col=column,
    )
    plain = {"showgrid": False, "ticks": "", "row": 1, "col": column}
    figure.update_xaxes(tickvals=list(range(wide)), ticktext=[str(name) for name in one["correct"].values], side="top", **plain)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.5, -0.5], ticklabelstandoff=6, **plain)
    if "seen, readable" in rows:
        x, y = one["correct"].values.tolist().index("wrong"), rows.index("seen, readable")
        corners = {"x0": x - 0.49, "x1": x + 0.49, "y0": y - 0.48, "y1": y + 0.48}
        figure.add_shape(type="rect", **corners, line={"color": ROLE_COLOURS["evidence"], "width": 2.5}, row=1, col=column)


def _below(figure: go.Figure, one: xr.Dataset, shares: list[_Share], column: int, axis: int) -> None:
    """Shares of one null with their intervals; beside each, in words and as a grey stroke, what chance would give."""
    values, expected = (
        np.array([float(one[name].sel(share.at)) for share, name in ((s, getattr(s, which)) for s in shares)])
        for which in ("value", "expected")
    )
    bounds = np.stack([one[share.interval].sel(share.at).transpose("ci_bound").values for share in shares], axis=1)
    rows, colours = list(range(len(shares))), [GROUP_COLOURS[share.group] for share in shares]
    chance = {"symbol": "line-ns-open", "size": 15, "color": "#888888", "line": {"width": 3}}
    figure.add_trace(
        go.Scatter(x=expected, y=rows, mode="markers", marker=chance, hovertemplate="chance %{x:.1%}<extra></extra>"), 2, column
    )
    figure.add_trace(
        go.Scatter(
            x=values,
            y=rows,
            mode="markers",
            marker={"size": 9, "color": colours},
            error_x={**bars(values, bounds), "color": FAINT},
            customdata=bounds.T,
            hovertemplate="%{x:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}]<extra></extra>",
        ),
        row=2,
        col=column,
    )
    figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%", nticks=6, row=2, col=column)
    ticks = [share.words for share in shares]
    figure.update_yaxes(tickvals=rows, ticktext=ticks, range=[len(rows) - 0.5, -0.5], showgrid=False, row=2, col=column)
    if column > 1:
        figure.update_yaxes(ticks="", row=2, col=column)
    beside = [f"{_percent(value)}, chance {_percent(by_chance)}" for value, by_chance in zip(values, expected, strict=True)]
    for y, text in zip(rows, beside, strict=True):
        figure.add_annotation(
            text=text,
            xref=f"x{axis} domain",
            yref=f"y{axis}",
            x=1,
            y=y,
            xshift=6,
            xanchor="left",
            yanchor="middle",
            showarrow=False,
            font={"size": 11, "color": FAINT},
        )


def _words(result: xr.Dataset, nulls: list[str], judged: list[str]) -> list[str]:
    """The caption: how to read it, what was visible, what was left out, and where it comes from."""
    framed = " Framed: seen and readable, yet wrong, which is seeing but not believing." if "readable" in result["readable"] else ""
    text = (
        f"Cells: samples, their share and its interval.{framed} Below: shares of the correct (blue) and of the wrong answers (orange), and "
        "as a grey stroke what the same rule would give if evidence lay where chance puts it. Intervals: "
        f"{result['interval'].attrs.get('long_name', 'interval')}."
    )
    seeable = ", ".join(
        f"{name} {int(n):,}" for name, n in zip(result["visibility"].values, result["visibility_count"].values, strict=True)
    )
    unused = "".join(f" No sample could be held against {null} boxes." for null in nulls if null not in judged)
    left_out = "; ".join(f"{null}: {_reasons(result, null)}" for null in judged)
    numbers = ", ".join(f"{int(result['n'].sel(null=null)):,} ({null})" for null in judged)
    return [text, f"Visibility: {seeable}. Not judged, {left_out}.{unused}", caption(provenance(result), numbers)]


def _reasons(result: xr.Dataset, null: str) -> str:
    counts = result["excluded"].sel(null=null)
    parts = [f"{reason} {int(n):,}" for reason, n in zip(counts["reason"].values, counts.values, strict=True) if n]
    return ", ".join(parts) or "none"


def _take(result: xr.Dataset, name: str, at: dict[str, str]) -> np.ndarray:
    return result[name].sel(at).values


def _percent(share: float) -> str:
    return "none" if np.isnan(share) else f"{100 * share:.1f}%"


def _range(low: float, high: float) -> str:
    return "no interval" if np.isnan(low) else f"[{100 * low:.1f}, {100 * high:.1f}]"
