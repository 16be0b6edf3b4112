"""Figs. 8 to 10: the attention shift, the layer maps and the evidence curves of all models of a run, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from experiments.artefacts.attention_shift import SECTIONS, shift
from experiments.artefacts.context import Context
from experiments.artefacts.evidence_by_correctness import SECTIONS as EVIDENCE
from experiments.artefacts.evidence_by_correctness import excess, split
from experiments.artefacts.interface import Artefact, Result
from experiments.artefacts.layer_maps import over_layers, typical
from experiments.artefacts.words import bounds, cells, number
from interp import plots

_APART = "The paper shows these for its own models as curves and maps; no numbers of them are known."
_PANELS = 8


def shifts(contexts: Sequence[Context]) -> Result:
    """Fig. 8: as fig1, a panel for each model."""
    found = {c.model: shift(c.trace()) for c in contexts}
    rows = [
        {"model": name, "section": section, "change": "last third of the layers less first", **_rise(one.sel(section=section))}
        for name, one in found.items()
        for section in SECTIONS
    ]
    rising = [name for name, one in found.items() if bounds(one["rise_interval"].sel(section="image"))[0] > 0]
    sentence = (
        f"Relative attention on the picture is higher in the last third of the layers than in the first in {len(rising)} of "
        f"{len(found)} models (differences: {_each(found)})."
    )
    figure = plots.curves_by_model(found, "Attention from question to image over the layers, by model")
    return Result(pd.DataFrame(rows), figure, _by_model(found), sentence, apart=_APART, n=_counts(found))


def maps(contexts: Sequence[Context]) -> Result:
    """Fig. 9: for each model the picture of median AUROC, with a shallow, a middle and the best layer."""
    found = {c.model: over_layers(c.trace()) for c in contexts}
    examples, rows = [], []
    each = max(1, min(4, 12 // len(contexts)))
    for context in contexts[:12]:
        one = found[context.model].sel(measure="auroc")
        layers = one["layer"].values
        best = int(layers[int(np.nanargmax(one["mean"].values))])
        sample, place = typical(context)
        picture = context.samples()[place].open_images()[0]
        wanted = sorted({best, *(int(layers[k]) for k in np.linspace(0, len(layers) - 1, each).round().astype(int))})
        chosen = [layer for layer in wanted if layer != best][: each - 1]
        for layer in sorted({*chosen, best}):
            value = number(one["mean"].sel(layer=layer))
            examples.append(plots.Example(sample, picture, [layer], context.model, [f"layer {layer}, AUROC {value}"]))
        rows += [
            {
                "model": context.model,
                "layer": int(layer),
                "measure": "AUROC",
                **cells(one.sel(layer=layer)),
                "n": int(one["n"].sel(layer=layer)),
            }
            for layer in layers
        ]
    best_of = {name: one["mean"].sel(measure="auroc") for name, one in found.items()}
    words = ", ".join(f"{name} layer {int(m['layer'].values[int(np.nanargmax(m.values))])} of {m.size}" for name, m in best_of.items())
    figure = plots.gallery(examples, "Attention on the picture by layer and model", "Headings: layer and its mean AUROC over all samples.")
    sentence = f"Attention is best placed on the evidence in {words}."
    return Result(pd.DataFrame(rows), figure, _by_model(found), sentence, apart=_APART, n=_counts(found))


def curves(contexts: Sequence[Context]) -> Result:
    """Fig. 10: as fig4 in the run's prompt order, a panel for each model."""
    found = {c.model: split(c, c.order) for c in contexts}
    gained = {c.model: excess(c, c.order) for c in contexts}
    rows = []
    for name, one in gained.items():
        for group in ("correct", "wrong"):
            part = one.sel(group=group)
            low, high = bounds(part["interval"])
            row = {"model": name, "answers": group, "evidence less non-evidence": float(part["mean"]), "lower": low, "upper": high}
            rows.append({**row, "n": int(part["n"])})
    above = [name for name, one in gained.items() if bounds(one["interval"].sel(group="wrong"))[0] > 0]
    values = ", ".join(f"{n} {number(g['mean'].sel(group='wrong'), g['interval'].sel(group='wrong'))}" for n, g in gained.items())
    sentence = f"Wrong answers attend more to the evidence than beside it in {len(above)} of {len(gained)} models ({values})."
    figure = plots.curves_by_model(found, "Attention on and beside the evidence by correctness, by model", EVIDENCE)
    return Result(pd.DataFrame(rows), figure, _by_model(found), sentence, apart=_APART, n=_counts(found))


def _rise(one: xr.Dataset) -> dict[str, float]:
    low, high = bounds(one["rise_interval"])
    return {"mean": float(one["rise"]), "lower": low, "upper": high, "n": int(one["n"].max())}


def _each(found: dict[str, xr.Dataset]) -> str:
    parts = {name: one.sel(section="image") for name, one in found.items()}
    return ", ".join(f"{name} {number(one['rise'], one['rise_interval'])}" for name, one in parts.items())


def _counts(found: dict[str, xr.Dataset]) -> str:
    each = [one["n"].max(["layer", "section"]) if "section" in one.dims else one["n"].max() for one in found.values()]
    counts = list(dict.fromkeys(int(n.sum()) for n in each))
    return " / ".join(map(str, counts))


def _by_model(found: dict[str, xr.Dataset]) -> xr.Dataset:
    """One dataset over `model`; models of fewer layers have NaN in the others."""
    bare = [one.drop_attrs(deep=False) for one in found.values()]
    return xr.concat(bare, dim=xr.DataArray(list(found), dims="model", name="model"), join="outer").assign_attrs(models=", ".join(found))


SHIFTS = Artefact(
    "fig8",
    "Attention shift of all models (paper, Figs. 8 to 10)",
    "Does attention move from text to picture with depth in every model?",
    shifts,
    together=True,
)
MAPS = Artefact(
    "fig9",
    "Layer maps of all models (paper, Figs. 8 to 10)",
    "In which layers does each model look at the evidence?",
    maps,
    together=True,
)
CURVES = Artefact(
    "fig10",
    "Attention on and beside the evidence, all models (paper, Figs. 8 to 10)",
    "Do wrong answers look at the evidence in every model?",
    curves,
    together=True,
)
