"""What the answer loses when attention to the evidence is cut, window by window, beside as many random tokens of the picture."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.plots.curves import curve, layer_axis, require
from interp.plots.template import GROUP_COLOURS, SECTION_COLOURS, caption, count, finish, head_lines, interval_note, provenance

_COLOURS = {"evidence": SECTION_COLOURS["evidence"], "control": SECTION_COLOURS["non-evidence"], **SECTION_COLOURS}


def knockout_curves(effect: xr.Dataset) -> go.Figure:
    """Two panels: the effect of each block by layer, correct answers solid and wrong ones dashed; and the evidence's beyond its control's.

    Parameters
    ----------
    effect
        What `interp.analysis.knockout_effect` gave, with the attributes of the knock-out.

    Raises
    ------
    InterpError
        `effect` is something else.
    """
    needed = ("mean", "interval", "excess", "excess_interval", "group", "block", "layer")
    require(effect, "knockout_curves", "the result of knockout_effect", *needed)
    layers = effect["layer"].values
    groups = [str(group) for group in effect["group"].values if bool(np.isfinite(effect["mean"].sel(group=group)).any())]
    blocks = [str(block) for block in effect["block"].values]
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.09, subplot_titles=["attention cut, by block", "evidence beyond its control"]
    )
    head_lines(figure)
    for block in blocks:
        for group in groups:
            at = {"block": block, "group": group}
            dash = "solid" if group == "correct" else "dash"
            spread = effect["interval"].sel(at).transpose("ci_bound", "layer").values
            for trace in curve(
                layers, effect["mean"].sel(at).values, spread, f"{block}, {group}", _COLOURS.get(block, "#444444"), dash=dash
            ):
                figure.add_trace(trace, row=1, col=1)
    for group in groups:
        spread = effect["excess_interval"].sel(group=group).transpose("ci_bound", "layer").values
        dash = "solid" if group == "correct" else "dash"
        for trace in curve(
            layers, effect["excess"].sel(group=group).values, spread, f"beyond control, {group}", GROUP_COLOURS[group], dash=dash
        ):
            figure.add_trace(trace, row=1, col=2)
    for col in (1, 2):
        layer_axis(figure, layers, row=1, col=col)
        figure.add_hline(y=0, line={"dash": "dot", "color": "#888888", "width": 1}, row=1, col=col)  # pyright: ignore[reportArgumentType]
    attrs = provenance(effect)
    unit = str(effect["mean"].attrs.get("long_name", attrs.get("effect", "effect")))
    figure.update_xaxes(title_text="layer at the centre of the window")
    figure.update_yaxes(title_text="change of the answer", row=1, col=1)
    text = f"{unit[:1].upper()}{unit[1:]}: less is a loss. The control cuts as many visual tokens off the evidence, drawn at random."
    window = f"Window: {attrs['window']} layers" if attrs.get("window") else ""
    about = [f"{text} {interval_note(effect['interval'])}", caption(attrs, count(effect["n"], effect["mean"]), window)]
    return finish(figure, "Attention knock-out", about, width=1040, height=340, top=112, legend=30)
