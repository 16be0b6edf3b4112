"""Attention layer by layer on the picture with its boxes, all layers on one scale: weak and scattered, then sparse (paper, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.plots.panels import BOXES, evenly, layer_panels
from interp.plots.template import HEAT, bar

_SHARE = 0.995  # of the tokens' values lie within the scale: a few sinks would otherwise darken all the rest


def layer_maps(sample: xr.Dataset, picture: Image.Image, layers: Sequence[int] | None = None, image_index: int = 0) -> go.Figure:
    """Head-mean attention of the last prompt token on the picture, a panel for each layer, on one colour scale.

    Every token's value is painted on exactly the region it stands for.

    Parameters
    ----------
    sample
        One sample of a trace (no `sample` dimension): attention (layer, head, token) with its `token_box`.
    picture
        The original picture the boxes refer to.
    layers
        Which layers to show; by default at most twelve, evenly spaced, first and last included.
    image_index
        Which of the sample's pictures `picture` is.

    Raises
    ------
    InterpError
        `sample` holds more than one sample, none of its tokens stands for a part of this picture, or it has no such layer.
    """
    chosen = evenly(sample["layer"].values, 12) if layers is None else list(layers)
    panels = layer_panels(sample, picture, chosen, image_index, room=(1000, 500), share=_SHARE)
    text = (
        f"Head-mean attention of the last prompt token, each token's value on the region it stands for. One scale for all panels, from "
        f"0 to {panels.top:.3g} (the {_SHARE:.1%} quantile over their tokens); what is above has the top colour. {BOXES}"
    )
    figure = panels.finished(sample, "Attention on the picture, layer by layer", text, beside=84)
    return figure.update_layout(coloraxis={"colorscale": HEAT, "cmin": 0, "cmax": panels.top, "colorbar": bar("attention")})
