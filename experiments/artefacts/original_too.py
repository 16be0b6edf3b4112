"""VEA*: the original picture and the highlighted one together, and what of it is due to showing two pictures."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

import interp
from experiments import paper
from experiments.artefacts.asking import ask
from experiments.artefacts.comparing import absent, answerable, correct, counted, drawn, find, mean_rows, paired_rows, said, table_of
from experiments.artefacts.context import Context, joined
from experiments.artefacts.interface import Artefact, Result, beside_in
from interp import plots
from interp.methods import Batch, Method

TWICE = Method(
    "original-twice",
    "original picture, then the same again, VEA prompt",
    lambda batch: batch.ask("vea", _twice(batch)),
    forms=("vea", "two images"),
)
"""The control of VEA*: as many pictures and the same words, nothing highlighted."""

AGAINST = ("vea", "inst", "original-twice")


def _twice(batch: Batch) -> list[interp.Sample]:
    return [replace(sample, images=(*sample.open_images(), *sample.open_images())) for sample in batch.samples]


def starred(context: Context) -> xr.Dataset:
    """Answers of base, inst, vea, vea-star and its control."""
    known = context.answers(["base", "inst", "vea", "vea-star"])
    more = ask(context, context.samples(), [TWICE])
    return joined([known, more])


def compute(context: Context) -> Result:
    """VEA* against VEA, the words alone, and the original picture twice."""
    everyone = starred(context)
    answers = answerable(everyone)
    means = mean_rows(answers, seed=context.seed)
    tests = correct([row for against in AGAINST for row in paired_rows(answers, against, ["vea-star"], seed=context.seed)])
    if "vea-star" in absent(everyone):
        sentence = f"VEA* is not applicable to this model ({absent(everyone)['vea-star']})."
    else:
        words = ", ".join(f"{said(find(tests, {'less': less, 'score': 'EM'}))} from {less}" for less in AGAINST)
        star = said(find(means, {"method": "vea-star", "score": "EM"}))
        sentence = f"EM of VEA* is {star}: {words} (p after Holm over the {len(tests)} tests of the table; {context.order})."
    beside, apart = beside_in(context.order, (said(find(tests, {"less": "vea", "score": "EM"})), paper.VEA_STAR))
    rows = [(str(row["score"]), str(row["method"]), row) for row in means]
    text = "Answerable questions. original-twice shows as many pictures as vea-star, and nothing highlighted."
    return Result(
        table_of([*means, *tests], "method", "less", "score", "mean", "difference"),
        plots.effects(drawn(rows, answers.attrs), "The original picture beside the highlighted one", text, "mean score", None),
        answers[["exact_match", "token_f1", "seconds", "passes"]],
        sentence,
        beside,
        apart or "The paper gives the direction alone, for other models and data.",
        n=counted(everyone),
    )


ARTEFACT = Artefact(
    "vea-star",
    "The original picture beside the highlighted one (paper, VEA*)",
    "Does it help to show the original too, and is that more than showing two pictures?",
    compute,
)
