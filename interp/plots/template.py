"""The look of every figure: one plotly template, the colours of things that recur, and the caption under a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

ROLE_COLOURS = {"evidence": "#d62728", "anchor": "#1f77b4", "distractor": "#8c8c8c"}
SEGMENT_COLOURS = {"image": "#1f77b4", "question": "#d62728", "instruction": "#9467bd", "template": "#7f7f7f", "system": "#2ca02c"}
HEAT = [[0, "rgba(20, 10, 80, 0.25)"], [0.5, "rgba(220, 70, 60, 0.55)"], [1, "rgba(255, 235, 80, 0.85)"]]  # over a picture

TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font={"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222222"},
        title={"x": 0.0, "xref": "container", "xanchor": "left", "pad": {"l": 16}, "font": {"size": 16}},
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"],
        xaxis={"gridcolor": "#e6e6e6", "linecolor": "#444444", "ticks": "outside", "zeroline": False},
        yaxis={"gridcolor": "#e6e6e6", "linecolor": "#444444", "ticks": "outside", "zeroline": False},
        margin={"l": 64, "r": 24, "t": 64, "b": 96},
    )
)


def caption(attrs: Mapping[str, Any], n: int, more: str = "") -> str:
    """Model, benchmark, split and n, as every caption must name them."""
    parts = [str(attrs.get("model", "unknown model")), f"{attrs.get('benchmark', 'unknown benchmark')} {attrs.get('split', '')}".strip()]
    parts += [f"prompt {attrs['prompt']}, {attrs['prompt_order']}"] if "prompt" in attrs and "prompt_order" in attrs else []
    return ", ".join([*parts, f"n = {n}"]) + (f". {more}" if more else ".")


def finish(figure: go.Figure, title: str, text: str, *, width: int, height: int, gap: int = 64) -> go.Figure:
    """Apply the template, set the title and put the caption `gap` pixels under the plot."""
    figure.update_layout(template=TEMPLATE, title_text=title, width=width, height=height)
    figure.add_annotation(
        text=text,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-gap,
        xanchor="left",
        yanchor="top",
        showarrow=False,
        align="left",
        font={"size": 11, "color": "#555555"},
    )
    return figure
