"""The look of every figure: one plotly template, one colour for each thing that recurs, and the caption under a figure.

Sizes are pixels and fixed, so that what fits in the test's browser fits in every browser; no figure is larger than 1120 x 720.
The colours are Okabe and Ito's, which people with colour-blindness tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plots.text import lines, plain
from interp.plots.text import width as text_width

ROLE_COLOURS = {"evidence": "#d55e00", "anchor": "#0072b2", "distractor": "#8c8c8c"}
SECTION_COLOURS = {
    **ROLE_COLOURS,
    "non-evidence": "#56b4e9",
    "image": "#009e73",
    "question": "#aa4499",
    "instruction": "#e69f00",
    "template": "#999933",
    "system": "#332288",
}
GROUP_DASHES = {"correct": "solid", "wrong": "dash"}
GROUP_COLOURS = {"correct": "#0072b2", "wrong": "#d55e00"}
METHOD_COLOURS = {
    "base": "#444444",
    "inst": "#e69f00",
    "vea": "#0072b2",
    "vea-shifted": "#d55e00",
    "vea-uniform": "#cc79a7",
    "vea-boxes": "#009e73",
}
HEAT = [[0, "rgba(20, 10, 80, 0.25)"], [0.5, "rgba(220, 70, 60, 0.55)"], [1, "rgba(255, 235, 80, 0.85)"]]  # over a picture
DIVERGING = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]]
MISSING = "#d0d0d0"  # behind a heat map: where a cell has no value
GRID, INK, FAINT = "#e6e6e6", "#222222", "#555555"
RAPT_NOTE = (
    "Relative attention per token: mean attention on a section's tokens over the mean on all tokens of the prompt; "
    "the dotted line, 1, is an even spread."
)
_OTHERS = ["#56b4e9", "#332288", "#117733", "#882255", "#999933", "#44aa99", "#8c8c8c"]

_CAPTION_SIZE, _CAPTION_LINE, _MARGIN = 11, 15, 16
_SUBTITLE_LINE, _LEGEND_ROW = 20, 20

# Margins are given in pixels; an axis that widened them by itself would move the caption.
_AXIS = {"gridcolor": GRID, "linecolor": "#444444", "ticks": "outside", "zeroline": False, "automargin": False} | {
    "title": {"font": {"size": 13}, "standoff": 8}
}

TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font={"family": "Helvetica, Arial, 'Liberation Sans', sans-serif", "size": 13, "color": INK},
        title={"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top", "pad": {"l": 16, "t": 14}}
        | {"font": {"size": 16}},
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=[*METHOD_COLOURS.values(), *_OTHERS],
        xaxis={**_AXIS, "tickangle": 0},
        yaxis=_AXIS,
        hoverlabel={"align": "left"},
    )
)


def method_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each method: its own where it has one, otherwise the next free one."""
    free = iter(_OTHERS * (1 + len(names) // len(_OTHERS)))
    return {name: METHOD_COLOURS.get(name) or next(free) for name in names}


def provenance(result: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """The attributes that say where a result comes from: its own, and for a dataset those of its variables as far as it has none."""
    if isinstance(result, xr.DataArray):
        return {str(k): v for k, v in result.attrs.items()}
    merged: dict[str, Any] = {}
    for attrs in (*(v.attrs for v in result.data_vars.values()), result.attrs):
        merged |= {str(k): v for k, v in attrs.items()}
    return merged


def caption(attrs: Mapping[str, Any], n: int | str, more: str = "") -> str:
    """Model, benchmark, split and n, as every caption must name them, and the seed where there is one; then what else `more` says."""
    parts = [str(attrs.get("model", "unknown model")), f"{attrs.get('benchmark', 'unknown benchmark')} {attrs.get('split', '')}".strip()]
    parts += [f"prompt {attrs['prompt']}, {attrs['prompt_order']}"] if "prompt" in attrs and "prompt_order" in attrs else []
    parts += [f"n = {n}", *([f"seed {attrs['seed']}"] if "seed" in attrs else [])]
    return ", ".join(parts) + (f". {more}" if more else ".")


def count(n: xr.DataArray, mean: xr.DataArray) -> str:
    """The number of samples behind a mean: one where all are equal, else their range. Where there is no mean it does not count."""
    values = n.where(mean.notnull()).values
    values = values[~np.isnan(values)] if np.isfinite(values).any() else np.zeros(1)
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def interval_note(interval: xr.DataArray, mark: str = "Bands") -> str:
    """What the bands (or bars) of a figure are, as one sentence."""
    if not bool(np.isfinite(interval.values).any()):
        return f"No {mark.lower()}: an interval needs two pictures or more."
    return f"{mark}: {interval.attrs.get('long_name', 'interval')}."


def finish(
    figure: go.Figure,
    title: str,
    text: str | Sequence[str],
    *,
    width: int,
    height: int,
    top: int = 56,
    right: int = 24,
    left: int = 64,
    gap: int = 60,
    legend: int | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Apply the template and set title, legend and caption at fixed distances around the plots.

    Parameters
    ----------
    figure, title
        The figure and what it shows; `title` is one line of plain text.
    text
        The caption: plain text, one paragraph each. It is broken into lines that fit the width.
    width
        Of the whole figure.
    height
        Of the area that the plots share; margins and caption are added to it.
    top, right, left
        Margins.
    gap
        From the plots down to the caption: room for the ticks and title of the x axes.
    legend
        Where given, a horizontal legend stands this many pixels above the plots; the top margin grows where it needs several rows.
    subtitle
        Plain text under the title, at most two lines; the top margin grows with it.
    """
    paragraphs = [text] if isinstance(text, str) else text
    room = width - 2 * _MARGIN
    written = [line for paragraph in paragraphs for line in lines(paragraph, room, _CAPTION_SIZE)]
    bottom = gap + _CAPTION_LINE * len(written) + _MARGIN
    under = lines(subtitle, room, 13, at_most=2) if subtitle else []
    top += _SUBTITLE_LINE * len(under) + (_LEGEND_ROW * (_legend_rows(figure, width - left - right) - 1) if legend is not None else 0)
    figure.update_layout(
        template=TEMPLATE,
        title_text=plain(lines(title, room, 16, at_most=1)[0]),
        width=width,
        height=top + height + bottom,
        margin={"l": left, "r": right, "t": top, "b": bottom},
        showlegend=legend is not None,
    )
    if legend is not None:
        figure.update_layout(
            legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + legend / height, "yanchor": "bottom", "font_size": 12}
        )
    _write(figure, written, _CAPTION_SIZE, FAINT, x=_MARGIN - left, y=-gap, edge=0)
    if under:
        _write(figure, under, 13, INK, x=_MARGIN - left, y=top - _MARGIN - _SUBTITLE_LINE, edge=1)
    return figure


def bar(title: str) -> dict[str, Any]:
    """A colour bar along the right side of the panels."""
    return {"title": {"text": title, "side": "right", "font": {"size": 13}}, "thickness": 12, "len": 1, "x": 1, "xpad": 12, "ypad": 0} | {
        "nticks": 7
    }


def head_lines(figure: go.Figure, size: int = 13) -> go.Figure:
    """The titles of the panels in the size of the text. To be called before other annotations are added."""
    return figure.update_annotations(font={"size": size, "color": INK})


def _write(figure: go.Figure, written: Sequence[str], size: int, colour: str, *, x: int, y: int, edge: int) -> None:
    """Lines of plain text at an offset in pixels from the left end of the plots' lower (0) or upper (1) `edge`."""
    figure.add_annotation(
        text="<br>".join(plain(line) for line in written),
        xref="paper",
        yref="paper",
        x=0,
        y=edge,
        xshift=x,
        yshift=y,
        xanchor="left",
        yanchor="top",
        showarrow=False,
        align="left",
        borderpad=0,
        font={"size": size, "color": colour},
    )


def _legend_rows(figure: go.Figure, room: int) -> int:
    """How many rows plotly needs for a horizontal legend: its entries are all as wide as the widest."""
    names = [str(trace.name or "") for trace in figure.select_traces() if trace.showlegend is not False]
    widest = max((text_width(name, 12) for name in names), default=0.0) + 45
    return max(1, math.ceil(len(names) / max(1, int(room / widest))))
