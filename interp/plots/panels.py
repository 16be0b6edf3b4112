"""Pictures as panels: the picture, a map over it, and its marked boxes, all in the pixels of a reduced copy."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.geometry import paint
from interp.plots.template import HEAT, ROLE_COLOURS, caption, finish, head_lines, provenance

LONGEST = 256  # pixels of the longer side that a panel carries: more only makes the file heavier
GAP, WIDEST = 14, 320  # between panels, and of one panel
BOXES = "Boxes: evidence orange, anchor blue, distractors grey."


@dataclass(frozen=True)
class Reduced:
    """A picture as panels show it: `image`, no longer than `LONGEST`, and `scale` (4,) from original to its pixels (x, y, x, y)."""

    image: Image.Image
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, picture: Image.Image) -> Reduced:
        """A copy of `picture` in RGB that is small enough."""
        small = picture.convert("RGB")
        small.thumbnail((LONGEST, LONGEST))
        return cls(small, np.array([small.width / picture.width, small.height / picture.height] * 2))

    @property
    def ratio(self) -> float:
        """Height over width."""
        return self.image.height / self.image.width


@dataclass(frozen=True)
class Panels:
    """Maps of several layers on one picture: `figure`, `width` and `height` of its panels together, the `top` of a shared scale, and
    the question with its answers (`asked`).
    """

    figure: go.Figure
    width: int
    height: int
    top: float
    asked: str

    def finished(self, sample: xr.Dataset, title: str, text: str, beside: int = 24) -> go.Figure:
        """The figure with title and caption, and `beside` pixels to the right of the panels."""
        width = max(560, self.width + 24 + beside)
        return finish(
            self.figure,
            title,
            [text, caption(provenance(sample), 1)],
            width=width,
            height=self.height,
            top=72,
            left=24,
            right=width - self.width - 24,
            gap=16,
            subtitle=self.asked,
        )


def layer_panels(
    sample: xr.Dataset, picture: Image.Image, layers: Sequence[int], image_index: int, room: tuple[int, int], share: float | None = None
) -> Panels:
    """One panel a layer: the picture, the head-mean attention of one sample, and the marked boxes.

    Parameters
    ----------
    sample, picture, layers, image_index
        As in the figures.
    room
        Width and height that the panels may take.
    share
        Where given, all panels share one colour scale, whose top is this quantile of the values shown.

    Raises
    ------
    InterpError
        `sample` holds more than one sample, none of its tokens stands for a part of this picture, or it has no such layer.
    """
    one_sample(sample)
    unknown = sorted(set(layers) - {int(layer) for layer in sample["layer"].values})
    if unknown or not layers:
        raise InterpError(f"Layers {unknown} are not in this trace, which has {sample.sizes['layer']}; choose layers from ds['layer'].")
    mine = ((sample["image_index"] == image_index) & sample["token_box"].isel(corner=0).notnull()).values
    if not mine.any():
        raise InterpError(f"No token of this sample stands for a part of image {image_index}; check image_index.")
    values = sample["attention"].sel(layer=list(layers)).isel(token=np.flatnonzero(mine)).load().mean("head").values
    known = values[np.isfinite(values)]
    top = (float(np.quantile(known, share)) if len(known) else 0.0) or 1.0 if share is not None else None
    reduced, boxes = Reduced.of(picture), sample["token_box"].values[mine]
    figure, columns, width, height = grid([f"layer {layer}" for layer in layers], reduced.ratio, room)
    for k in range(len(layers)):
        row, column = k // columns + 1, k % columns + 1
        add_picture(figure, reduced, row, column)
        add_tokens(figure, reduced, values[k], boxes, row, column, top)
        add_boxes(figure, reduced, sample, image_index, row, column)
    return Panels(figure, width, height, top or 0.0, asked(sample))


def one_sample(sample: xr.Dataset) -> None:
    """Refuse a trace of several samples.

    Raises
    ------
    InterpError
        It has a `sample` dimension.
    """
    if "sample" in sample.dims:
        raise InterpError("This figure shows one sample; choose it first with ds.isel(sample=0).")


def asked(sample: xr.Dataset) -> str:
    """The question, the model's answer where there is one, and the references, as one line of plain text."""
    parts = [f"Question: {sample['question'].item()!s}"]
    parts += [f"Answer: {sample['prediction'].item()!s}"] if "prediction" in sample else []
    return "  ·  ".join([*parts, f"Reference: {references(sample)}"])


def references(sample: xr.Dataset) -> str:
    """The accepted answers of one sample, as one line of plain text."""
    return " / ".join(json.loads(str(sample["references"].item())))


def add_picture(figure: go.Figure, reduced: Reduced, row: int, column: int) -> None:
    """The picture as one panel of a figure of subplots, without axes and undistorted."""
    file = io.BytesIO()
    reduced.image.save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    figure.add_trace(go.Image(source=source, hoverinfo="skip"), row=row, col=column)
    fit(figure, reduced, row, column)


def fit(figure: go.Figure, reduced: Reduced, row: int, column: int) -> None:
    """Axes of a panel that shows all of the picture and nothing else."""
    figure.update_xaxes(visible=False, range=[-0.5, reduced.image.width - 0.5], constrain="domain", row=row, col=column)
    anchor = next(figure.select_xaxes(row=row, col=column)).plotly_name.replace("axis", "")
    lowest = reduced.image.height - 0.5
    figure.update_yaxes(visible=False, range=[lowest, -0.5], scaleanchor=anchor, constrain="domain", row=row, col=column)


def add_tokens(
    figure: go.Figure, reduced: Reduced, values: ArrayLike, boxes: NDArray[np.float64], row: int, column: int, top: float | None = None
) -> None:
    """The tokens' `values` (n,), painted on their `boxes` (n, 4) in original pixels; the colours end at `top`, else at the largest."""
    heat = paint(values, boxes * reduced.scale, reduced.image.size).astype(np.float32)
    shared = {"showscale": False} if top is None else {"coloraxis": "coloraxis"}
    template = "attention %{z:.4f}<extra></extra>"
    figure.add_trace(go.Heatmap(z=heat, colorscale=HEAT if top is None else None, hovertemplate=template, **shared), row=row, col=column)


def add_boxes(figure: go.Figure, reduced: Reduced, sample: xr.Dataset, image_index: int, row: int, column: int) -> None:
    """The marked boxes of one sample on one of its pictures; evidence is drawn last, above the others."""
    roles = [str(role) for role in sample["evidence_role"].values]
    boxes = sample["evidence_box"].values * reduced.scale - 0.5  # pixel k of an image trace spans k - 0.5 to k + 0.5
    on_image = sample["evidence_image"].values
    for role in ("distractor", "anchor", "evidence"):
        for k in (k for k, name in enumerate(roles) if name == role and on_image[k] == image_index):
            x0, y0, x1, y1 = (float(v) for v in boxes[k])
            figure.add_shape(type="rect", x0=x0, y0=y0, x1=x1, y1=y1, line={"color": ROLE_COLOURS[role], "width": 2}, row=row, col=column)


def evenly(layers: NDArray[np.int_], count: int) -> list[int]:
    """At most `count` of `layers`, evenly spaced, first and last included."""
    return [int(layers[k]) for k in np.unique(np.linspace(0, len(layers) - 1, min(count, len(layers))).round().astype(int))]


def grid(titles: Sequence[str], ratio: float, room: tuple[int, int], head: int = 24, least: int = 64) -> tuple[go.Figure, int, int, int]:
    """An empty figure of panels, as large as fits `room` (width, height); with its columns, and the width and height of all panels.

    Parameters
    ----------
    titles
        One for each panel, in reading order; plotly's markup is live in them.
    ratio
        Height over width of every picture.
    head
        Pixels above every panel but those of the first row, for its title.
    least
        Width of a panel, for its title, where its picture is narrower.
    """
    columns, wide = 1, 0.0
    for tried in range(1, len(titles) + 1):
        rows = math.ceil(len(titles) / tried)
        across = (room[0] - GAP * (tried - 1)) / tried
        fits = min(across, (room[1] - head * (rows - 1)) / rows / ratio, WIDEST)
        if fits > wide + 0.5 and (tried == 1 or across >= least):
            columns, wide = tried, fits
    rows = math.ceil(len(titles) / columns)
    width, height = round(columns * max(wide, least) + GAP * (columns - 1)), round(rows * max(wide * ratio, 8) + head * (rows - 1))
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=list(titles), horizontal_spacing=GAP / width, vertical_spacing=head / height
    )
    return head_lines(figure), columns, width, height
