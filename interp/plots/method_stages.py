"""Highlighting stage by stage on one picture: attention, without spikes, smoothed, as a gain, and the result (paper, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.errors import InterpError
from interp.plots.panels import BOXES, Reduced, add_boxes, add_picture, asked, fit, grid, one_sample
from interp.plots.template import MISSING, bar, caption, finish, provenance
from interp.plots.text import plain

_SCALE = "Cividis"


def method_stages(sample: xr.Dataset, picture: Image.Image, stages: Mapping[str, xr.DataArray], highlighted: Image.Image) -> go.Figure:
    """The picture, a map for every stage, and the highlighted picture.

    Parameters
    ----------
    sample
        One sample of a trace (no `sample` dimension): question, answer and the marked boxes.
    picture
        The original picture.
    stages
        By name, maps (y, x) on `picture` in [0, 1]; NaN where no token stands for a pixel.
    highlighted
        The picture that is asked in its place.

    Raises
    ------
    InterpError
        A map or the highlighted picture has another size, or `sample` holds more than one sample.
    """
    one_sample(sample)
    for name, stage in stages.items():
        if (stage.shape[1], stage.shape[0]) != picture.size or highlighted.size != picture.size:
            raise InterpError(f"Stage {name!r} does not have the picture's size {picture.size}; all maps belong on the original picture.")
    reduced = Reduced.of(picture)
    titles = ["Original picture", *(plain(name) for name in stages), "Highlighted picture"]
    figure, across, width, height = grid(titles, reduced.ratio, (1000, 500), head=30, least=170)
    where = [(k // across + 1, k % across + 1) for k in range(len(titles))]
    add_picture(figure, reduced, *where[0])
    add_boxes(figure, reduced, sample, 0, *where[0])
    for stage, (row, column) in zip(stages.values(), where[1:-1], strict=True):
        small = Image.fromarray(stage.values.astype(np.float32)).resize(reduced.image.size, Image.Resampling.BOX)
        template = "%{z:.2f}<extra></extra>"
        figure.add_trace(go.Heatmap(z=np.asarray(small), coloraxis="coloraxis", hovertemplate=template), row=row, col=column)
        fit(figure, reduced, row, column)
        add_boxes(figure, reduced, sample, 0, row, column)
    add_picture(figure, Reduced.of(highlighted), *where[-1])
    gap = " Grey: no token stands for these pixels." if any(bool(stage.isnull().any()) for stage in stages.values()) else ""
    total = max(560, width + 24 + 84)
    figure = finish(
        figure,
        "Visual evidence augmentation, stage by stage",
        [f"Maps before the gain are stretched from 0 to 1. {BOXES}{gap}", caption(provenance(sample), 1)],
        width=total,
        height=height,
        top=72,
        left=24,
        right=total - width - 24,
        gap=16,
        subtitle=asked(sample),
    )
    return figure.update_layout(coloraxis={"colorscale": _SCALE, "cmin": 0, "cmax": 1, "colorbar": bar("value")}, plot_bgcolor=MISSING)
