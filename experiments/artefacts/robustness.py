"""Fig. 6: what highlighting does where pictures are bad."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

import interp
from experiments import paper
from experiments.artefacts.asking import Altered, ask, first
from experiments.artefacts.comparing import Row, answerable, by_levels, correct, counted, find, mean_rows, paired_rows, said, table_of
from experiments.artefacts.context import Context
from experiments.artefacts.degrading import LEVELS, degraded, named
from experiments.artefacts.interface import Artefact, Result, beside_in
from experiments.artefacts.words import p_value
from interp import plots

N = 250
METHODS = ("base", "inst", "vea", "vea-shifted")
PAIRS = (("vea", "base"), ("vea", "inst"), ("vea", "vea-shifted"))
PLAIN = {"degraded by": "nothing", "level": "as it is"}
_PANELS = {"noise": "Gaussian noise", "resolution": "resolution", "mask": "masked patches"}
_TEXT = (
    "Exact match of answerable questions. Noise: standard deviation, of the full range; resolution: of each side, enlarged again; mask: "
    "share of the patches, a fourteenth of the shorter side wide, in grey. The first level is the picture as it is."
)


def compute(context: Context) -> Result:
    """Every method at every level, and VEA's paired differences with Holm over all of them."""
    everyone = first(context.answers(METHODS), N)
    plain = answerable(everyone)
    asked = {(kind, k): _answers(context, kind, k) if k else plain for kind, levels in LEVELS.items() for k in range(len(levels))}
    conditions: list[tuple[dict[str, Any], xr.Dataset]] = [(PLAIN, plain)]
    conditions += [({"degraded by": kind, "level": named(kind, LEVELS[kind][k])}, one) for (kind, k), one in asked.items() if k]
    means: list[Row] = []
    tests: list[Row] = []
    for labels, answers in conditions:
        means += mean_rows(answers, seed=context.seed, **labels)
        for method, against in PAIRS:
            tests += paired_rows(answers, against, [method], {"exact_match": "EM"}, seed=context.seed, **labels)
    tests = correct(tests)
    panels, differences = {}, {}
    for kind, levels in LEVELS.items():
        several, names = [asked[kind, k] for k in range(len(levels))], [named(kind, level) for level in levels]
        panels[_PANELS[kind]] = by_levels([each["exact_match"] for each in several], several, names, seed=context.seed)
        differences[_PANELS[kind]] = by_levels([_gained(each) for each in several], several, names, seed=context.seed)
    worst = [{"degraded by": kind, "level": named(kind, levels[-1])} for kind, levels in LEVELS.items()]
    parts = [f"VEA less {less} {_each([PLAIN, *worst], tests, less)}" for less in ("base", "vea-shifted")]
    sentence = f"In EM, {'; '.join(parts)} (p after Holm over the {len(tests)} tests of the table; {context.order})."
    ours = [find(tests, {"degraded by": kind, "level": level, "less": "base"}) for kind, level in _PAPERS]
    beside, apart = beside_in(context.order, *((_points(row), published) for row, published in zip(ours, paper.ROBUSTNESS, strict=True)))
    apart = apart or (
        "The paper's are points of another model on TextVQA, scored by containment; what its levels mean is unknown, so only signs compare."
    )
    kinds = xr.DataArray(list(LEVELS), dims="kind", name="kind")
    data = xr.concat([panel.drop_attrs(deep=False) for panel in panels.values()], dim=kinds, join="outer").assign_attrs(plain.attrs)
    extra = plots.by_level(differences, "What highlighting adds where pictures are bad", _TEXT, "difference in exact match", 0.0)
    return Result(
        table_of([*means, *tests], "degraded by", "level", "method", "less", "score", "mean", "difference"),
        plots.by_level(panels, "Answers about bad pictures", _TEXT, "exact match"),
        data,
        sentence,
        beside,
        apart,
        {"figure_differences": extra},
        counted(everyone),
    )


_PAPERS = (("noise", "60 %"), ("mask", "30 %"))  # the points of paper.ROBUSTNESS


def _points(row: Row) -> str:
    if np.isnan(row["difference"]):
        return said(row)
    mean, low, high = (100 * row[name] for name in ("difference", "lower", "upper"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], {p_value(row['p after Holm'])}"


def _answers(context: Context, kind: str, k: int) -> xr.Dataset:
    level, seed = LEVELS[kind][k], context.seed

    def change(sample: interp.Sample, place: int) -> interp.Sample:
        return degraded(sample, kind, level, seed)

    return answerable(ask(context, Altered(context.samples("judged", N), change), METHODS, label=f"{kind} {level:g}"))


def _gained(answers: xr.Dataset) -> xr.DataArray:
    em = answers["exact_match"]
    parts = [em.sel({"method": method}, drop=True) - em.sel({"method": against}, drop=True) for method, against in PAIRS]
    return xr.concat(parts, dim=xr.DataArray([f"{a} less {b}" for a, b in PAIRS], dims="method", name="method"))


def _each(conditions: list[dict[str, str]], tests: list[Row], less: str) -> str:
    words = []
    for labels in conditions:
        row = find(tests, {**labels, "less": less})
        where = "on pictures as they are" if labels is PLAIN else f"at {labels['level']} {_PANELS[labels['degraded by']]}"
        words.append(f"{said(row)} {where}")
    return ", ".join(words)


ARTEFACT = Artefact(
    "fig6",
    "Robustness to noise, low resolution and masked patches (paper, Fig. 6)",
    "Does highlighting still help where pictures are bad, and more than a highlight in the wrong place?",
    compute,
)
