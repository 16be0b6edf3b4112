"""What highlighting did to one question: the picture with its boxes, the evidence map, the highlighted picture, and both answers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.errors import InterpError
from interp.plots.panels import BOXES, GAP, Reduced, add_boxes, add_picture, fit, grid, one_sample, references
from interp.plots.template import MISSING, bar, caption, finish, provenance
from interp.plots.text import shown

_SCALE, _LINE = "Cividis", 17


def before_after(
    sample: xr.Dataset,
    picture: Image.Image,
    evidence_map: xr.DataArray,
    highlighted: Image.Image,
    before: str,
    after: str,
    image_index: int = 0,
) -> go.Figure:
    """Three panels: the original with the answer to it, the evidence map, and the highlighted picture with the answer to that.

    Parameters
    ----------
    sample
        One sample of a trace (no `sample` dimension): question, references and the marked boxes.
    picture
        The original picture.
    evidence_map
        (y, x) in [0, 1] on `picture`; NaN where no token stands for a pixel.
    highlighted
        The picture that was asked in its place.
    before, after
        The two answers.
    image_index
        Which of the sample's pictures `picture` is.

    Raises
    ------
    InterpError
        The three do not have one size, or `sample` holds more than one sample.
    """
    one_sample(sample)
    rows, columns = evidence_map.shape
    if not picture.size == highlighted.size == (columns, rows):
        raise InterpError(
            f"Picture {picture.size}, evidence map {(columns, rows)} and highlighted picture {highlighted.size} differ in size "
            "(width, height); all three belong on the original picture."
        )
    reduced = Reduced.of(picture)
    heads = [("Original picture", f"Answer: {before}"), ("Evidence map", f"Reference: {references(sample)}")]
    heads.append(("Highlighted picture", f"Answer: {after}"))
    least = 190
    # Titles are broken at the panels' width, which the grid decides: a first grid without text finds it.
    _, across, width, _ = grid([""] * 3, reduced.ratio, (1020, 420), head=4 * _LINE, least=least)
    room = (width - GAP * (across - 1)) / across
    titles = [f"<b>{head}</b><br>{shown(text, room, 13, at_most=3)}" for head, text in heads]
    figure, across, width, height = grid(titles, reduced.ratio, (1020, 420), head=4 * _LINE, least=least)
    where = [(k // across + 1, k % across + 1) for k in range(3)]
    add_picture(figure, reduced, *where[0])
    small = Image.fromarray(evidence_map.values.astype(np.float32)).resize(reduced.image.size, Image.Resampling.BOX)
    template = "evidence %{z:.2f}<extra></extra>"
    figure.add_trace(go.Heatmap(z=np.asarray(small), coloraxis="coloraxis", hovertemplate=template), row=where[1][0], col=where[1][1])
    fit(figure, reduced, *where[1])
    add_picture(figure, Reduced.of(highlighted), *where[2])
    for row, column in where[:2]:
        add_boxes(figure, reduced, sample, image_index, row, column)
    lines = max(title.count("<br>") for title in titles) + 1
    gap = " Grey: no token stands for these pixels." if bool(evidence_map.isnull().any()) else ""
    text = [f"{BOXES}{gap}", caption(provenance(sample) | evidence_map.attrs, 1)]
    total = max(560, width + 24 + 84)
    figure = finish(
        figure,
        "Before and after highlighting",
        text,
        width=total,
        height=height,
        top=46 + lines * _LINE,
        left=24,
        right=total - width - 24,
        gap=16,
        subtitle=f"Question: {sample['question'].item()!s}",
    )
    axis = {"colorscale": _SCALE, "cmin": 0, "cmax": 1, "colorbar": bar("evidence")}
    return figure.update_layout(coloraxis=axis, plot_bgcolor=MISSING)
