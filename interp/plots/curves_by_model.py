"""The same curves over layers for several models, a panel each on one scale (paper, Figs. 8 and 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import InterpError
from interp.plots.curves import curve, layer_axis, require, value_axis
from interp.plots.template import GROUP_DASHES, RAPT_NOTE, SECTION_COLOURS, caption, count, finish, head_lines, interval_note, provenance
from interp.plots.text import shown

_ACROSS, _LEAST, _PANEL, _BETWEEN = 1000, 560, 300, 60


def curves_by_model(results: Mapping[str, xr.Dataset], title: str, sections: Sequence[str] = ("question", "image")) -> go.Figure:
    """Relative attention per token of some sections over the layers, a panel for each model.

    Parameters
    ----------
    results
        By the model's name, what `attention_shift` draws (`mean` over layer and section), or what `evidence_by_correctness` draws (also
        over `group`; correct answers solid, wrong ones dashed).
    title
        What the figure shows.
    sections
        Which sections to draw.

    Raises
    ------
    InterpError
        No model is given, a result lacks a section, or is something else.
    """
    if not results:
        raise InterpError("No model was given to draw; give the results of one or more.")
    for name, result in results.items():
        require(result, "curves_by_model", "mean_interval(rapt(ds), ds['image_id'])", "mean", "interval", "n", "layer", "section")
        if missing := sorted(set(sections) - {str(s) for s in result["section"].values}):
            raise InterpError(f"Section {missing[0]!r} is not in the result of {name!r}; choose sections that all models have.")
    chosen = {name: result.sel(section=list(sections)) for name, result in results.items()}
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    height = 300 if rows == 1 else 210 * rows + _BETWEEN * (rows - 1)
    across = min(_ACROSS, max(_LEAST, _PANEL * columns))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        subplot_titles=[shown(name, across / columns - 30, 13, 1) for name in chosen],
        horizontal_spacing=24 / across,
        vertical_spacing=_BETWEEN / height if rows > 1 else 0.0,
    )
    head_lines(figure)
    spread = np.concatenate([np.r_[r["mean"].values.ravel(), r["interval"].values.ravel()] for r in chosen.values()] + [[1.0]])
    log = False
    for k, result in enumerate(chosen.values()):
        at: dict[str, Any] = {"row": k // columns + 1, "col": k % columns + 1}
        log = value_axis(figure, spread, "relative attention per token" if at["col"] == 1 else "", floor=0.0, **at)
        _panel(figure, result, sections, log, at, first=k == 0)
        layer_axis(figure, result["layer"].values, **at)
        if k + columns < len(chosen):
            figure.update_xaxes(title_text="", **at)
        figure.add_hline(y=1, line={"color": "#444444", "width": 1, "dash": "dot"}, **at)
    first = next(iter(chosen.values()))
    counts = sorted({count(r["n"], r["mean"]) for r in chosen.values()})
    about = f"{RAPT_NOTE}{' Logarithmic axis.' if log else ''} {interval_note(first['interval'])}"
    attrs = {**provenance(first), "model": ", ".join(chosen)}
    wide = max(640, across + 64 + 24)
    return finish(
        figure, title, [about, caption(attrs, " / ".join(counts))], width=wide, height=height, top=100, right=wide - across - 64, legend=30
    )


def _panel(figure: go.Figure, result: xr.Dataset, sections: Sequence[str], log: bool, at: dict[str, Any], *, first: bool) -> None:
    groups = [str(name) for name in result["group"].values] if "group" in result.dims else [""]
    for section in sections:
        for group in groups:
            one = result.sel({"section": section} | ({"group": group} if group else {}))
            if not bool(one["mean"].notnull().any()):
                continue  # nobody answered so
            bounds = one["interval"].transpose("ci_bound", "layer").values
            name = f"{section}, {group}" if group else section
            style = {"dash": GROUP_DASHES.get(group, "solid"), "positive": log, "shown": first}
            made = curve(result["layer"].values, one["mean"], bounds, name, SECTION_COLOURS[section], **style)
            figure.add_traces(made, rows=at["row"], cols=at["col"])
