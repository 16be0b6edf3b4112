"""Where the last prompt token looks, in a few layers, on the original picture with its boxes; each panel in its own range."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.plots.panels import BOXES, evenly, layer_panels


def attention_over_image(sample: xr.Dataset, picture: Image.Image, layers: Sequence[int] | None = None, image_index: int = 0) -> go.Figure:
    """One panel a layer: the picture, over it the head-mean attention of the last prompt token, and the marked boxes.

    Parameters
    ----------
    sample
        One sample of a trace (no `sample` dimension): attention (layer, head, token) with its `token_box`.
    picture
        The original picture the boxes refer to.
    layers
        Which layers to show; by default four, evenly spaced, the last included.
    image_index
        Which of the sample's pictures `picture` is.

    Raises
    ------
    InterpError
        `sample` holds more than one sample, none of its tokens stands for a part of this picture, or it has no such layer.
    """
    chosen = evenly(sample["layer"].values, 4) if layers is None else list(layers)
    panels = layer_panels(sample, picture, chosen, image_index, room=(1060, 480))
    text = "Head-mean attention of the last prompt token, each panel scaled to its own range. " + BOXES
    return panels.finished(sample, "Where the last prompt token looks", text)
