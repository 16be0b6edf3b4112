"""From text to image over depth: the attention that a token of the question and of the picture gets (paper, Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr

from interp.errors import InterpError
from interp.plots.curves import curve, layer_axis, require, value_axis
from interp.plots.template import RAPT_NOTE, SECTION_COLOURS, caption, count, finish, interval_note, provenance


def attention_shift(rapt: xr.Dataset, sections: Sequence[str] = ("question", "image")) -> go.Figure:
    """Relative attention per token of some sections of the prompt, over layers; 1 is an even spread over the prompt.

    Parameters
    ----------
    rapt
        Mean over samples of the relative attention per token: `mean` (layer, section), `interval` (ci_bound, layer, section) and
        `n` (layer, section), as ``mean_interval(rapt(ds), ds["image_id"])`` gives it; with the attributes of the trace.
    sections
        Which sections to draw.

    Raises
    ------
    InterpError
        `rapt` is not such a data set, or lacks a section.
    """
    require(rapt, "attention_shift", "mean_interval(rapt(ds), ds['image_id'])", "mean", "interval", "n", "layer", "section")
    known = [str(name) for name in rapt["section"].values]
    for section in sections:
        if section not in known:
            raise InterpError(f"Section {section!r} is unknown; use some of {', '.join(known)}.")
    chosen = rapt.sel(section=list(sections))
    mean, interval = chosen["mean"], chosen["interval"].transpose("ci_bound", ...)
    layers = rapt["layer"].values
    figure = go.Figure()
    log = value_axis(figure, [*mean.values.ravel(), *interval.values.ravel(), 1.0], "relative attention per token", floor=0.0)
    for section in sections:
        bounds = interval.sel(section=section).transpose("ci_bound", "layer").values
        figure.add_traces(curve(layers, mean.sel(section=section), bounds, section, SECTION_COLOURS[section], positive=log))
    figure.add_hline(y=1, line={"color": "#444444", "width": 1, "dash": "dot"})
    layer_axis(figure, layers)
    note = interval_note(interval)
    text = f"{RAPT_NOTE}{' Logarithmic axis.' if log else ''} {note}"
    about = [text, caption(provenance(rapt), count(chosen["n"], mean))]
    title = f"Attention from {' and '.join(sections)} over the layers" if len(sections) < 3 else "Attention by section over the layers"
    return finish(figure, title, about, width=760, height=360, top=76, legend=8)
