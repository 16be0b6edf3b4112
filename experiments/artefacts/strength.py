"""Fig. 7: how strong a highlight should be (alpha), and how smooth (sigma)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import xarray as xr

from experiments import paper
from experiments.artefacts.asking import ask, first
from experiments.artefacts.comparing import answerable, by_levels, correct, counted, find, mean_rows, paired_rows, said, table_of
from experiments.artefacts.context import Context, joined
from experiments.artefacts.interface import Artefact, Result, beside_in
from interp import plots
from interp.interventions import evidence_map, gain, highlight
from interp.methods import Batch, Method, Reply

N = 250
ALPHAS, SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.125, 0.25, 0.5, 1.0)
ALPHA, SIGMA = 0.5, 0.5  # the paper's, which the other sweep keeps
_TEXT = (
    "Paired difference in the score of answerable questions from the same words about the picture as it is. Alpha: brightness left where "
    "nobody looked (at 1 nothing is dimmed, and the answer is inst's). Sigma: width of the smoothing, in shorter sides of the picture."
)


def _shown(batch: Batch, alpha: float, sigma: float) -> Sequence[Reply]:
    """As `vea`, with a strength and a smoothness of its own: from the one prefill that all of them share."""
    profile, o = batch.profile, batch.options
    assert profile is not None  # needs_map
    asked, means = [], []
    for k, sample in enumerate(batch.samples):
        maps = batch.maps[k]
        if sigma != o.sigma:
            how = {"sigma": sigma, "smooth": sigma > 0, "lam": o.lam, "variant": o.variant}
            maps = [evidence_map(batch.seen(k), profile, image_index=index, **how) for index in range(len(maps))]
        pictures = [highlight(picture, one, alpha, o.variant) for picture, one in zip(sample.open_images(), maps, strict=True)]
        asked.append(replace(sample, images=tuple(pictures)))
        means.append(float(np.concatenate([gain(one, alpha).ravel() for one in maps]).mean()))
    replies = batch.ask("vea", asked)
    for reply, mean in zip(replies, means, strict=True):
        reply.numbers["mean_gain"] = mean
    return replies


def strength(alpha: float, sigma: float) -> Method:
    """VEA at these settings, as a method beside others."""
    return Method(
        f"alpha {alpha:g}, sigma {sigma:g}",
        f"VEA with alpha {alpha:g} and sigma {sigma:g}",
        partial(_shown, alpha=alpha, sigma=sigma),
        needs_map=True,
        forms=("vea",),
    )


def sweep(context: Context) -> xr.Dataset:
    """Answers of all settings and of inst, to the first samples.

    The paper's setting is `vea`, alpha 1 is `inst` and sigma 0 is `vea-no-smoothing`, whose answers are there already.
    """
    known = first(context.answers(["base", "inst", "vea", "vea-no-smoothing"]), N)
    settings = [(alpha, SIGMA) for alpha in ALPHAS if alpha not in (ALPHA, 1.0)] + [(ALPHA, s) for s in SIGMAS if s not in (0.0, SIGMA)]
    more = ask(context, context.samples("judged", N), [strength(alpha, sigma) for alpha, sigma in settings])
    return joined([known, more])


def method_at(alpha: float, sigma: float) -> str:
    """Which of the answers of `sweep` are of this setting."""
    return {(ALPHA, SIGMA): "vea", (1.0, SIGMA): "inst", (ALPHA, 0.0): "vea-no-smoothing"}.get((alpha, sigma), strength(alpha, sigma).name)


def compute(context: Context) -> Result:
    """Scores at every setting, and their paired differences from inst, with Holm over all of them."""
    everyone = sweep(context)
    answers = answerable(everyone)
    points = {"alpha": [(alpha, SIGMA) for alpha in ALPHAS], "sigma": [(ALPHA, sigma) for sigma in SIGMAS]}
    settings = list(dict.fromkeys(point for each in points.values() for point in each))
    tests = correct(
        [
            row | {"alpha": alpha, "sigma": sigma}
            for alpha, sigma in settings
            if alpha != 1.0  # inst against itself is no test
            for row in paired_rows(answers, "inst", [method_at(alpha, sigma)], seed=context.seed)
        ]
    )
    places = {method_at(alpha, sigma): {"alpha": alpha, "sigma": sigma} for alpha, sigma in settings}
    means = [row | places.get(str(row["method"]), {}) for row in mean_rows(answers, seed=context.seed)]
    for row in means:
        row["mean gain"] = float(answers["mean_gain"].sel({"method": str(row["method"])}).mean())
    panels = {}
    for name, several in points.items():
        labels = [f"{alpha if name == 'alpha' else sigma:g}" for alpha, sigma in several]
        gained = [_gained(answers, method_at(alpha, sigma)) for alpha, sigma in several]
        panels[name] = by_levels(gained, [answers] * len(several), labels, seed=context.seed)
    words = {
        name: "; ".join(f"{value:g}: {said(find(tests, {name: value, other: kept, 'score': 'EM'}))}" for value in values)
        for name, other, kept, values in (("alpha", "sigma", SIGMA, ALPHAS[:-1]), ("sigma", "alpha", ALPHA, SIGMAS))
    }
    sentence = (
        f"EM of VEA less inst by alpha, {words['alpha']} (1 is inst itself); by sigma, {words['sigma']} (p after Holm over the "
        f"{len(tests)} tests of the table; {context.order})."
    )
    beside, apart = beside_in(context.order, (f"alpha {words['alpha']}; sigma {words['sigma']}", paper.SWEEP))
    swept = xr.DataArray(list(panels), dims="swept", name="swept")
    data = xr.concat([panel.drop_attrs(deep=False) for panel in panels.values()], dim=swept, join="outer")
    return Result(
        table_of([*means, *tests], "method", "alpha", "sigma", "less", "score", "mean", "difference"),
        plots.by_level(panels, "Strength and smoothness of the highlight", _TEXT, "difference from inst", 0.0),
        data.assign_attrs(answers.attrs),
        sentence,
        beside,
        apart or "No numbers of the paper's figure are known.",
        n=counted(everyone),
    )


def _gained(answers: xr.Dataset, method: str) -> xr.DataArray:
    parts = [
        answers[score].sel({"method": method}, drop=True) - answers[score].sel({"method": "inst"}, drop=True)
        for score in ("exact_match", "token_f1")
    ]
    return xr.concat(parts, dim=xr.DataArray(["exact match", "token F1"], dims="method", name="method"), combine_attrs="drop")


ARTEFACT = Artefact(
    "fig7",
    "Strength and smoothness of the highlight (paper, Fig. 7)",
    "How much should be dimmed, and how smoothly?",
    compute,
)
