"""What every head does: a value per layer and head, coloured around zero."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import head_axes
from interp.plots.template import DIVERGING, MISSING, bar, caption, count, finish, provenance

_HEIGHT, _MARKED = 420, 10


def head_effects(effect: xr.Dataset, title: str = "What every head does for the answer", unit: str = "") -> go.Figure:
    """Mean effect of replacing each head, as a heat map centred at zero; rings mark the heads whose interval leaves zero out.

    Parameters
    ----------
    effect
        `mean`, `n` (layer, head) and `interval` (ci_bound, layer, head), as ``mean_interval(sweep["delta_logprob"], sweep["image_id"])``
        gives them, with the attributes of the sweep. Where more than ten heads have an interval without zero, the ten strongest are ringed.
    title
        Of the figure.
    unit
        What the values are, for the colour bar.

    Raises
    ------
    InterpError
        The mean has other dimensions than layer and head.
    """
    mean = effect["mean"]
    if set(mean.dims) != {"layer", "head"}:
        raise InterpError(f"This figure shows (layer, head), not {mean.dims}; give it mean_interval(effect, image_id) of a head sweep.")
    table = mean.transpose("head", "layer")
    layers, heads = table["layer"].values, table["head"].values
    values = table.values.astype(float)
    low, high = effect["interval"].transpose("ci_bound", "head", "layer").values
    reach = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            x=layers,
            y=heads,
            z=values,
            colorscale=DIVERGING,
            zmid=0,
            zmin=-reach,
            zmax=reach,
            colorbar=bar(unit or str(mean.attrs.get("long_name", "effect"))),
            customdata=np.stack([low, high], axis=-1),
            hovertemplate="layer %{x}, head %{y}: %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        )
    )
    clear = (low > 0) | (high < 0)
    order = np.argsort(-np.where(clear, np.abs(values), -1), axis=None)[: min(_MARKED, int(clear.sum()))]
    head, layer = np.unravel_index(order, values.shape)
    if len(order):
        size = max(6.0, min(16.0, 0.7 * _HEIGHT / len(heads)))
        figure.add_trace(
            go.Scatter(
                x=layers[layer],
                y=heads[head],
                mode="markers",
                marker={"symbol": "circle-open", "size": size, "color": "black", "line": {"width": 1.6}},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    head_axes(figure, layers, heads)
    rings = f"Rings: the {len(order)} strongest of {int(clear.sum())} heads" if clear.sum() > _MARKED else "Rings: heads"
    named = str(mean.attrs.get("long_name", "effect"))
    text = f"{named[:1].upper()}{named[1:]}, mean over samples. {rings} whose 95 % interval leaves zero out"
    text += f" ({int(clear.sum())} of {values.size}; {0.05 * values.size:.0f} would by chance, were all effects zero)."
    text += " Grey: no value." if np.isnan(values).any() else ""
    attrs = provenance(effect)
    about = [text, caption(attrs, count(effect["n"], mean), _how(attrs))]
    return finish(figure, title, about, width=800, height=_HEIGHT, right=104).update_layout(plot_bgcolor=MISSING)


def _how(attrs: dict[str, object]) -> str:
    parts = [f"{name.replace('_', ' ')} {attrs[name]}" for name in ("mode", "positions") if attrs.get(name)]
    return f"Ablation: {', '.join(parts)}" if parts else ""
