"""Seen whether the answer is right or wrong: attention on the evidence and beside it, over layers, by correctness (paper, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import curve, layer_axis, require, value_axis
from interp.plots.template import GROUP_DASHES, RAPT_NOTE, SECTION_COLOURS, caption, count, finish, interval_note, provenance


def evidence_by_correctness(split: xr.Dataset, sections: Sequence[str] = ("evidence", "non-evidence")) -> go.Figure:
    """Relative attention per token on and off the evidence, correct answers solid, wrong ones dashed; below, correct minus wrong.

    Parameters
    ----------
    split
        The relative attention per token by correctness: `mean` (group, layer, section), `interval` (ci_bound, group, layer, section),
        `n` (group, ...), and where present `difference` with `difference_interval`, as ``by_correctness(rapt(ds), ds)`` gives them; with
        the attributes of the trace.
    sections
        Which sections to draw.

    Raises
    ------
    InterpError
        `split` is not such a data set, or lacks a section.
    """
    require(split, "evidence_by_correctness", "by_correctness(rapt(ds), ds)", "mean", "interval", "n", "group", "layer", "section")
    known = [str(name) for name in split["section"].values]
    for section in sections:
        if section not in known:
            raise InterpError(f"Section {section!r} is unknown; use some of {', '.join(known)}.")
    chosen = split.sel(section=list(sections))
    below = {"difference", "difference_interval"} <= set(chosen) and bool(chosen["difference"].notnull().any())
    heights, space = ([0.64, 0.36], 0.07) if below else ([1.0], 0.0)
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=space)
    layers = chosen["layer"].values
    groups = [str(group) for group in chosen["group"].values]
    mean, interval = chosen["mean"], chosen["interval"].transpose("ci_bound", ...)
    spread = [*mean.values.ravel(), *interval.values.ravel(), 1.0]
    log = value_axis(figure, spread, "relative attention per token", floor=0.0, row=1, col=1)
    for section in sections:
        for group in groups:
            at = {"section": section, "group": group}
            if not bool(mean.sel(at).notnull().any()):
                continue  # nobody answered so, and the legend should not promise a line
            bounds = interval.sel(at).transpose("ci_bound", "layer").values
            style = {"dash": GROUP_DASHES.get(group, "dot"), "positive": log}
            made = curve(layers, mean.sel(at), bounds, f"{section}, {group}", SECTION_COLOURS[section], **style)
            figure.add_traces(made, rows=1, cols=1)
    figure.add_hline(y=1, line={"color": "#444444", "width": 1, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    if below:
        _difference(figure, chosen, sections, layers)
    layer_axis(figure, layers)
    if below:
        figure.update_xaxes(title_text="", row=1, col=1)
    axis, lower = (" Logarithmic axis." if log else ""), (" Below: correct minus wrong." if below else "")
    text = f"{RAPT_NOTE}{axis}{lower} {interval_note(interval)}"
    numbers = ", ".join(f"{count(chosen['n'].sel(group=group), mean.sel(group=group))} {group}" for group in groups)
    title = "Attention on the evidence, by the answer's correctness"
    return finish(
        figure,
        title,
        [text, caption(provenance(split), numbers)],
        width=800,
        height=460 if below else 340,
        top=76,
        legend=8,
    )


def _difference(figure: go.Figure, chosen: xr.Dataset, sections: Sequence[str], layers: np.ndarray) -> None:
    bounds = chosen["difference_interval"].transpose("ci_bound", ...)
    spread = [*chosen["difference"].values.ravel(), *bounds.values.ravel(), 0.0]
    low, high = (f(np.asarray(spread, dtype=float)[np.isfinite(spread)]) for f in (np.min, np.max))
    pad = 0.08 * float(high - low) or 0.1
    figure.update_yaxes(title_text="difference", range=[low - pad, high + pad], nticks=6, row=2, col=1)
    for section in sections:
        of = chosen["difference"].sel(section=section)
        limits = bounds.sel(section=section).transpose("ci_bound", "layer").values
        made = curve(layers, of, limits, f"{section}, difference", SECTION_COLOURS[section], shown=False)
        figure.add_traces(made, rows=2, cols=1)
    figure.add_hline(y=0, line={"color": "#444444", "width": 1}, row=2, col=1)  # pyright: ignore[reportArgumentType]
