"""Does it hurt when attention was wrong? The score of each method, and its effect, by how well attention had found the evidence."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.plots.curves import bars, require
from interp.plots.template import INK, caption, finish, head_lines, interval_note, method_colours, provenance

_COLUMN, _WIDEST, _HEIGHT = 92, 960, 300


def accuracy_by_quality(binned: xr.Dataset, effect: xr.Dataset | None = None, score: str = "exact match") -> go.Figure:
    """Mean score by bins of the profiled map's AUROC on the evidence, and in a second panel an effect by the same bins.

    Parameters
    ----------
    binned
        `mean` (bin) or (bin, method), `interval` (ci_bound, ...), `n` (...), as `by_grounding_quality` gives it, with provenance.
    effect
        The same of a paired difference, for instance of `vea` minus `inst`; its `mean` may say which in ``long_name``.
    score
        What `binned` is the mean of, for the axis.

    Raises
    ------
    InterpError
        A data set lacks a variable or the dimension `bin`.
    """
    parts = [(binned, score), *([(effect, str(effect["mean"].attrs.get("long_name", "effect")))] if effect is not None else [])]
    for part, _ in parts:
        require(part, "accuracy_by_quality", "the result of by_grounding_quality", "mean", "interval", "n", "bin")
    labels = [str(label) for label in binned["bin"].values]
    column = min(max(_COLUMN, 14 * binned.sizes.get("method", 1)), _WIDEST // (len(parts) * len(labels)))
    panel = max(300, column * len(labels))
    across = panel * len(parts) + 70 * (len(parts) - 1)
    spacing = 70 / across if len(parts) > 1 else 0.0
    titles = ["score", "effect"] if len(parts) > 1 else None
    figure = make_subplots(rows=1, cols=len(parts), subplot_titles=titles, horizontal_spacing=spacing)
    head_lines(figure)
    named: set[str] = set()
    for column, (part, title) in enumerate(parts, start=1):
        _panel(figure, part, column, named)
        figure.update_yaxes(title_text=title, row=1, col=column)
    figure.update_yaxes(range=_range(binned, 0.0, 1.0), row=1, col=1)
    if effect is not None:
        figure.add_hline(y=0, line={"color": "#444444", "width": 1}, row=1, col=2)  # pyright: ignore[reportArgumentType]
        figure.update_yaxes(range=_range(effect, 0.0, 0.0), row=1, col=2)
    counts = binned["n"].max([dim for dim in binned["n"].dims if dim != "bin"]).values
    ticks = [f"{label}<br>n = {int(n):,}" for label, n in zip(labels, counts, strict=True)]
    figure.update_xaxes(
        tickvals=list(range(len(labels))),
        ticktext=ticks,
        range=[-0.5, len(labels) - 0.5],
        showgrid=False,
        title_text="AUROC of the profiled map",
    )
    text = "Samples by the AUROC of their profiled map on the evidence; under 0.5 attention was on the wrong place. "
    text += interval_note(binned["interval"], "Bars")
    about = [text, caption(provenance(binned), f"{int(counts.sum()):,}")]
    legend, top = (30 if len(parts) > 1 else 8) if named else None, 48 + 24 * (len(parts) > 1) + 28 * bool(named)
    return finish(
        figure,
        "Score by how well attention found the evidence",
        about,
        width=across + 64 + 24,
        height=_HEIGHT,
        top=top,
        gap=74,
        legend=legend,
    )


def _panel(figure: go.Figure, part: xr.Dataset, column: int, named: set[str]) -> None:
    """The points of one panel, side by side where there are several methods."""
    several = "method" in part["mean"].dims
    names = [str(name) for name in part["method"].values] if several else [""]
    colours = method_colours(names) if several else {"": INK}
    for k, name in enumerate(names):
        mine = part.isel(method=k) if several else part
        mean, bounds = mine["mean"].values, mine["interval"].transpose("ci_bound", "bin").values
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(mean)) + (k - (len(names) - 1) / 2) * 0.7 / max(len(names), 3),
                y=mean,
                mode="markers",
                marker={"size": 8, "color": colours[name]},
                error_y={**bars(mean, bounds), "color": colours[name]},
                name=name,
                legendgroup=name,
                showlegend=several and name not in named,
                customdata=np.stack([*bounds, mine["n"].values.astype(float)], axis=1),
                hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], n = %{customdata[2]:.0f}",
            ),
            row=1,
            col=column,
        )
        named |= {name} if several else set()


def _range(part: xr.Dataset, low: float, high: float) -> list[float]:
    """All means and intervals, at least from `low` to `high`, with a little room."""
    values = np.concatenate([part["mean"].values.ravel(), part["interval"].values.ravel(), [low, high]]).astype(float)
    finite = values[np.isfinite(values)]
    pad = 0.05 * float(finite.max() - finite.min()) or 0.05
    return [float(finite.min()) - pad, float(finite.max()) + pad]
