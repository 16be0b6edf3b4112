"""Examples side by side: pictures of several samples, each with the attention of some layers over it and what was asked and answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.errors import InterpError
from interp.plots.panels import BOXES, GAP, Reduced, add_boxes, add_picture, add_tokens, grid, one_sample
from interp.plots.template import caption, finish, provenance
from interp.plots.text import shown

_LINE, _LEAST, _ROOM = 16, 150, (1060, 500)


class Example(NamedTuple):
    """One panel: a sample of a trace with its picture, the layers whose mean attention lies over it, a heading and lines of text."""

    sample: xr.Dataset
    picture: Image.Image
    layers: Sequence[int]
    heading: str
    text: Sequence[str] = ()


def gallery(examples: Sequence[Example], title: str, text: str, more: str = "") -> go.Figure:
    """A panel for each example: its picture, over it the mean attention of the last prompt token, and its marked boxes.

    Parameters
    ----------
    examples
        At most about twelve; each in its own colour range.
    title, text
        Of the figure: what it shows, and how the examples were chosen.
    more
        Ends the caption: what the samples were drawn from.

    Raises
    ------
    InterpError
        No example is given, one holds several samples, or none of its tokens stands for its picture.
    """
    if not examples:
        raise InterpError("No example was given to show; choose one or more samples.")
    reduced = [Reduced.of(example.picture) for example in examples]
    ratio = max(each.ratio for each in reduced)
    # Titles are broken at the panels' width, which the grid decides: a first grid without text finds it.
    _, across, width, _ = grid([""] * len(examples), ratio, _ROOM, head=_LINE * (2 + max(len(e.text) for e in examples)) + 10, least=_LEAST)
    room = (width - GAP * (across - 1)) / across
    titles = ["<br>".join([f"<b>{shown(e.heading, room, 13, 1)}</b>", *(shown(line, room, 13, 2) for line in e.text)]) for e in examples]
    head = _LINE * (1 + max(title.count("<br>") for title in titles)) + 10
    figure, across, width, height = grid(titles, ratio, _ROOM, head=head, least=_LEAST)
    for k, (example, small) in enumerate(zip(examples, reduced, strict=True)):
        row, column = k // across + 1, k % across + 1
        values, boxes = _attention(example)
        add_picture(figure, small, row, column)
        add_tokens(figure, small, values, boxes, row, column)
        add_boxes(figure, small, example.sample, 0, row, column)
    about = f"Attention of the last prompt token, mean over heads and the layers shown, each panel in its own range. {BOXES} {text}"
    attrs = provenance(examples[0].sample)
    models = list(dict.fromkeys(str(provenance(e.sample).get("model", "unknown model")) for e in examples))
    total = max(720, width + 48)
    return finish(
        figure,
        title,
        [about, caption({**attrs, "model": ", ".join(models)}, len(examples), more)],
        width=total,
        height=height,
        top=44 + head,
        left=24,
        right=total - width - 24,
        gap=16,
    )


def _attention(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Mean attention and boxes of the tokens that stand for a part of the first picture."""
    one_sample(example.sample)
    sample = example.sample
    mine = ((sample["image_index"] == 0) & sample["token_box"].isel(corner=0).notnull()).values
    if not mine.any():
        raise InterpError("No token of this sample stands for a part of its first picture; choose another sample.")
    chosen = sample["attention"].sel(layer=list(example.layers)).isel(token=np.flatnonzero(mine)).load()
    return chosen.mean(["layer", "head"]).values, sample["token_box"].values[mine]
