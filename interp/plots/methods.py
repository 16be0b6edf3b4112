"""Ways to answer, side by side: each method's score with its interval, and its paired difference from the methods it is compared with."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import bars, require
from interp.plots.template import FAINT, caption, count, finish, head_lines, interval_note, method_colours, provenance
from interp.plots.text import lines, plain, width

_PANEL, _GAP, _NAME = 236, 92, 150


def methods(scores: xr.Dataset, *comparisons: xr.Dataset, score: str = "exact match") -> go.Figure:
    """One row a method: its mean score, and for every comparison the paired difference with its adjusted p-value.

    Methods without a score (`n` of 0: not applicable to the model) are named below and have no row.

    Parameters
    ----------
    scores
        `mean` (method), `interval` (ci_bound, method), `n` (method), as ``mean_interval(answers["exact_match"], answers["image_id"])``
        gives it; with the attributes of the answers.
    comparisons
        Results of `compare`: `difference` (method), `interval` (ci_bound, method), `p_holm` (method), and the attribute ``against``. Where
        several samples share a picture, or a score is not 0 or 1, `p_holm_permutation` is shown in its place; the caption says so. Who
        adjusted `p_holm` otherwise names the test and over what in the attributes `test` and `adjusted_over`.
    score
        What `mean` is the mean of, for the axis.

    Raises
    ------
    InterpError
        A data set lacks a variable, or no method is left.
    """
    require(scores, "methods", "mean_interval(answers['exact_match'], answers['image_id'])", "mean", "interval", "n", "method")
    scored = (scores["n"] > 0).values
    unscored = [str(name) for name in scores["method"].values[~scored]]
    scores = scores.isel(method=np.flatnonzero(scored))
    names = [str(name) for name in scores["method"].values]
    if not names:
        raise InterpError("No method is left to draw; evaluate one or more.")
    colours = method_colours(names)
    labels = [lines(name, _NAME, at_most=2 if len(names) <= 12 else 1) for name in names]
    row = 42 if max(map(len, labels)) > 1 else 34
    titles = [plain(score), *(f"difference from {plain(str(each.attrs.get('against', 'reference')))}" for each in comparisons)]
    left = round(max(width(line, 13) for label in labels for line in label)) + 34
    across = len(titles) * _PANEL + len(comparisons) * _GAP - (_GAP - 24 if comparisons else 0)
    figure = make_subplots(
        rows=1, cols=len(titles), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=_spacing(across, len(titles))
    )
    head_lines(figure)
    _points(figure, 1, names, scores["mean"], scores["interval"], colours)
    tests: list[str] = []
    over: list[str] = []
    for column, each in enumerate(comparisons, start=2):
        require(each, "methods", "results of compare(answers, against)", "difference", "interval", "p_holm", "method")
        against = str(each.attrs.get("against", ""))
        kept = each.isel(method=[k for k, name in enumerate(each["method"].values) if str(name) in colours and str(name) != against])
        _points(figure, column, names, kept["difference"], kept["interval"], colours)
        figure.add_vline(x=0, line={"color": "#444444", "width": 1}, row=1, col=column)  # pyright: ignore[reportArgumentType]
        p_values, test = _tested(kept)
        tests.append(str(each.attrs.get("test", test)))
        over.append(str(each.attrs.get("adjusted_over", "the methods")))
        for name, p in zip(kept["method"].values, p_values.values, strict=True):
            _beside(figure, column, names.index(str(name)), _p_text(float(p)))
        _beside(figure, column, 1, "Holm", above=True)
    ticks = ["<br>".join(plain(line) for line in label) for label in labels]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.4, -0.6], showgrid=False)
    for column in range(2, len(titles) + 1):
        figure.update_yaxes(ticks="", row=1, col=column)
    figure.update_xaxes(nticks=6)
    compared = (
        f" and paired differences; p: {', '.join(dict.fromkeys(tests))}, adjusted over {', '.join(dict.fromkeys(over))} (Holm)"
        if tests
        else ""
    )
    text = f"Mean {score} of each method{compared}. {interval_note(scores['interval'], 'Bars')}"
    if unscored:
        text += f" Not applicable to this model: {', '.join(unscored)}."
    return finish(
        figure,
        "Methods side by side",
        [text, caption(provenance(scores), count(scores["n"], scores["mean"]))],
        width=max(560, left + across + _GAP),
        height=min(max(2, len(names)) * row, 540),
        top=72,
        left=left,
        right=max(_GAP, 560 - left - across),
        gap=44,
    )


def _spacing(across: int, panels: int) -> float:
    return _GAP / across if panels > 1 else 0.0


def _points(figure: go.Figure, column: int, names: list[str], mean: xr.DataArray, interval: xr.DataArray, colours: dict[str, str]) -> None:
    shown = [str(name) for name in mean["method"].values]
    bounds = interval.transpose("ci_bound", "method").values
    figure.add_trace(
        go.Scatter(
            x=mean.values,
            y=[names.index(name) for name in shown],
            mode="markers",
            marker={"size": 9, "color": [colours[name] for name in shown]},
            error_x={**bars(mean.values, bounds), "color": FAINT},
            customdata=bounds.T,
            hovertemplate="%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        ),
        row=1,
        col=column,
    )
    values = np.concatenate([mean.values.ravel(), bounds.ravel(), [0.0] * (column > 1)]).astype(float)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.05
    figure.update_xaxes(range=[low - pad, high + pad], row=1, col=column)


def _beside(figure: go.Figure, column: int, y: float, text: str, above: bool = False) -> None:
    """A short text to the right of a panel, in a method's row, or above the rows."""
    figure.add_annotation(
        text=text,
        xref=f"x{column} domain",
        yref=f"y{column} domain" if above else f"y{column}",
        x=1,
        y=y,
        xshift=8,
        xanchor="left",
        yanchor="bottom" if above else "middle",
        showarrow=False,
        font={"size": 11, "color": FAINT},
    )


def _tested(each: xr.Dataset) -> tuple[xr.DataArray, str]:
    """The p-values to show and their test: McNemar's takes samples for independent, which those of one picture are not."""
    shared = "n_images" in each and bool((each["n_images"] < each["n"]).any())
    if "p_holm_permutation" in each and (shared or not bool(each["p_holm"].notnull().all())):
        return each["p_holm_permutation"], "signs of whole pictures flipped"
    return each["p_holm"], "McNemar, exact"


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "p undefined"
    return "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"
