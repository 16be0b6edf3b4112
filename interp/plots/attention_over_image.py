"""Where the last prompt token looks, layer by layer, on the original picture with its boxes (paper, Fig. 3)."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from PIL import Image
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.geometry import paint
from interp.plots.template import HEAT, ROLE_COLOURS, caption, finish

_LONGEST = 256  # pixels of the longer side that a panel carries: more only makes the file heavier
_PANEL = 250


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
        `sample` holds more than one sample, or none of its tokens stands for a part of this picture.
    """
    if "sample" in sample.dims:
        raise InterpError("This figure shows one sample; choose it first with ds.isel(sample=0).")
    chosen = list(layers) if layers is not None else _spread(sample["layer"].values)
    mine = (sample["image_index"] == image_index).values & ~np.isnan(sample["token_box"].values[:, 0])
    if not mine.any():
        raise InterpError(f"No token of this sample stands for a part of image {image_index}; check image_index.")
    attention = sample["attention"].sel(layer=chosen).mean("head")
    small = picture.convert("RGB")
    small.thumbnail((_LONGEST, _LONGEST))
    scale = np.array([small.width / picture.width, small.height / picture.height] * 2)
    boxes = sample["token_box"].values[mine] * scale
    figure = make_subplots(rows=1, cols=len(chosen), subplot_titles=[f"layer {layer}" for layer in chosen], horizontal_spacing=0.02)
    for column, layer in enumerate(chosen, start=1):
        heat = paint(attention.sel(layer=layer).values[mine], boxes, small.size)
        figure.add_trace(go.Image(z=np.asarray(small), hoverinfo="skip"), row=1, col=column)
        figure.add_trace(
            go.Heatmap(z=heat, colorscale=HEAT, showscale=False, hovertemplate="attention %{z:.4f}<extra></extra>"),
            row=1,
            col=column,
        )
        marked = zip(sample["evidence_box"].values * scale, sample["evidence_role"].values, sample["evidence_image"].values, strict=True)
        for box, role, on_image in marked:
            if role in ROLE_COLOURS and on_image == image_index:
                x0, y0, x1, y1 = box - 0.5  # pixel k of an image trace spans k - 0.5 to k + 0.5
                figure.add_shape(type="rect", x0=x0, y0=y0, x1=x1, y1=y1, line={"color": ROLE_COLOURS[role], "width": 2}, row=1, col=column)
        figure.update_xaxes(visible=False, range=[-0.5, small.width - 0.5], row=1, col=column)
        figure.update_yaxes(
            visible=False, range=[small.height - 0.5, -0.5], scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column
        )
    answer = f"reference: {' / '.join(json.loads(str(sample['references'].item())))}"
    if "prediction" in sample:
        answer = f"{sample['prediction'].item()!s} ({answer})"
    text = "<br>".join(
        [
            f"Q: {html.escape(str(sample['question'].item()))}  A: {html.escape(answer)}",
            "Head-mean attention of the last prompt token, each panel scaled to its own range. "
            "Boxes: evidence red, anchor blue, distractors grey.",
            html.escape(caption(sample.attrs, 1)),
        ]
    )
    width = max(760, _PANEL * len(chosen) + 48)
    panel = (width - 48) * (1 - 0.02 * (len(chosen) - 1)) / len(chosen)
    height = round(min(panel * small.height / small.width, 2 * _PANEL)) + 84 + 84
    figure = finish(figure, "Where the last prompt token looks", text, width=width, height=height, gap=12)
    return figure.update_layout(margin={"l": 24, "r": 24, "t": 84, "b": 84})


def _spread(layers: np.ndarray, count: int = 4) -> list[int]:
    return [int(layers[k]) for k in np.unique(np.linspace(0, len(layers) - 1, min(count, len(layers))).round().astype(int))]
