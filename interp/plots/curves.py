"""Means with their intervals: a curve over layers in its band, or a point with its bar, and axes that fit the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp.errors import InterpError

_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 50)


def curve(
    x: ArrayLike,
    mean: ArrayLike,
    interval: NDArray[np.float64],
    name: str,
    colour: str,
    *,
    dash: str = "solid",
    positive: bool = False,
    shown: bool = True,
) -> list[go.Scatter]:
    """Band and line of one curve, in this order.

    Where the mean is NaN (a layer whose heads cannot reach the picture) the line runs on to the next value and has no marker.

    Parameters
    ----------
    x, mean
        (layer,) each.
    interval
        (2, layer), lower and upper.
    name, colour, dash
        Of the line; the band has its colour.
    positive
        The axis is logarithmic: what is not above zero is drawn at the smallest positive number of the curve.
    shown
        Whether the legend names it.
    """
    at, middle = np.asarray(x), np.asarray(mean, dtype=np.float64)
    low, high = np.asarray(interval, dtype=np.float64)
    if positive:
        finite = np.concatenate([middle, low, high])
        floor = float(np.min(finite[finite > 0], initial=np.inf))
        middle, low, high = (np.where(v > 0, v, np.where(np.isnan(v), np.nan, floor)) for v in (middle, low, high))
    known = ~np.isnan(low) & ~np.isnan(high)
    band = go.Scatter(
        x=np.concatenate([at[known], at[known][::-1]]),
        y=np.concatenate([high[known], low[known][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=faded(colour, 0.2),
        line={"width": 0},
        hoverinfo="skip",
        name=name,
        legendgroup=name,
        showlegend=False,
    )
    line = go.Scatter(
        x=at,
        y=middle,
        mode="lines+markers",
        connectgaps=True,
        line={"color": colour, "width": 2.2, "dash": dash},
        marker={"size": 5, "color": colour, "symbol": "circle" if dash == "solid" else "circle-open"},
        name=name,
        legendgroup=name,
        showlegend=shown,
        customdata=np.stack([low, high], axis=1),
        hovertemplate="layer %{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]",
    )
    return [band, line]


def bars(mean: ArrayLike, interval: NDArray[np.float64]) -> dict[str, Any]:
    """Plotly's error bar for points at `mean` (n,) with `interval` (2, n); a point without interval has none."""
    middle = np.asarray(mean, dtype=np.float64)
    low, high = np.asarray(interval, dtype=np.float64)
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - middle),
        "arrayminus": np.nan_to_num(middle - low),
        "thickness": 1.6,
        "width": 4,
    }


def layer_axis(figure: go.Figure, layers: Sequence[int] | NDArray[Any], **where: Any) -> go.Figure:
    """An axis over all layers with at most about sixteen ticks, at round layers."""
    numbers = np.asarray(layers)
    step = next((s for s in _STEPS if (numbers[-1] - numbers[0]) / s <= 16), 100)
    ticks = [int(layer) for layer in numbers if layer % step == 0]
    return figure.update_xaxes(title_text="layer", tickvals=ticks, range=[numbers[0] - 0.6, numbers[-1] + 0.6], **where)


def head_axes(figure: go.Figure, layers: NDArray[Any], heads: NDArray[Any]) -> go.Figure:
    """Axes of a heat map of layers across and heads up, whole cells to the edge, with at most seventeen ticks of heads."""
    layer_axis(figure, layers)
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False)
    step = next(s for s in (1, 2, 4, 8, 16, 32) if len(heads) / s <= 17)
    return figure.update_yaxes(title_text="head", tickvals=heads[::step], range=[heads[0] - 0.5, heads[-1] + 0.5], showgrid=False)


def value_axis(figure: go.Figure, values: ArrayLike, title: str, *, floor: float | None = None, **where: Any) -> bool:
    """A vertical axis for positive `values`: logarithmic where they span more than a factor of ten. Returns whether it is.

    `floor` is included in a linear axis (0 for a ratio or a share).
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    numbers = numbers[np.isfinite(numbers)]
    positive = numbers[numbers > 0]
    if len(positive) and positive.max() > 10 * positive.min() and (numbers >= 0).all():
        low, high = math.log10(positive.min()), math.log10(positive.max())
        pad = 0.05 * (high - low)
        ticks = _round_ticks(low - pad, high + pad)
        texts = [f"{tick:g}" for tick in ticks]
        figure.update_yaxes(title_text=title, type="log", range=[low - pad, high + pad], tickvals=ticks, ticktext=texts, **where)
        return True
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    low = low if floor is None else min(low, floor)
    pad = 0.06 * (high - low) or 0.1
    figure.update_yaxes(title_text=title, range=[low - (0 if low == floor else pad), high + pad], nticks=8, **where)
    return False


def faded(colour: str, opacity: float) -> str:
    """A hexadecimal colour with an opacity."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def require(result: xr.Dataset, figure: str, maker: str, *names: str) -> None:
    """Refuse a data set that lacks what a figure draws.

    Raises
    ------
    InterpError
        A variable or dimension of `names` is missing; `maker` says which call makes such a data set.
    """
    missing = [name for name in names if name not in result.variables and name not in result.dims]
    if missing:
        raise InterpError(f"Figure {figure} needs {', '.join(map(repr, missing))}, which this data set lacks; give it {maker}.")


def _round_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2, 5 times powers of ten between two powers of ten, thinned to at most about ten."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{factor}e{k}") for k in decades for factor in factors if low <= math.log10(factor) + k <= high]
        if len(ticks) <= 10:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 10)]
