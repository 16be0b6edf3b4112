"""Two turns: every question asked after another one about the same picture."""

from __future__ import annotations

import xarray as xr

from experiments import paper
from experiments.artefacts.asking import ask, first, require_trained
from experiments.artefacts.comparing import Row, answerable, correct, counted, drawn, find, mean_rows, paired, paired_rows, said, table_of
from experiments.artefacts.composing import Conversation, after_another
from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Result, beside_in
from experiments.artefacts.words import number
from interp import plots

N = 250
METHODS = ("base", "inst", "vea")
_TEXT = "Answerable questions. Second turn: the same question after one about another card of the picture, which was answered right."


def asked(context: Context) -> dict[str, xr.Dataset]:
    """Answers to the same questions, alone and as the second turn."""
    require_trained(context, "two turns")
    bench = after_another(context.samples("judged", N))
    later = ask(context, bench, METHODS, vlm=Conversation.of(context.vlm()), label="after another question")
    return {"one turn": first(context.answers(METHODS), N), "second turn": later}


def compute(context: Context) -> Result:
    """Each method in both turns, VEA's differences within each, and what the earlier turn changes."""
    everyone = asked(context)
    answers = {turn: answerable(each) for turn, each in everyone.items()}
    means: list[Row] = []
    tests: list[Row] = []
    for turn, each in answers.items():
        means += mean_rows(each, seed=context.seed, asked=turn)
        tests += [row for less in ("base", "inst") for row in paired_rows(each, less, ["vea"], seed=context.seed, asked=turn)]
    quality = {turn: each["profiled_auroc"] for turn, each in answers.items()}
    pictures = answers["one turn"]["image_id"].values
    moved = quality["second turn"].drop_vars(quality["second turn"].coords) - quality["one turn"].drop_vars(quality["one turn"].coords)
    turns = {"asked": "second turn", "less": "one turn"}
    tests.append({**turns, "method": "the profiled map", "score": "AUROC", **paired(moved, pictures, seed=context.seed)})
    for method in METHODS:
        gained = [each["exact_match"].sel({"method": method}).values for each in answers.values()]
        values = xr.DataArray(gained[1] - gained[0], dims="sample")
        tests.append({**turns, "method": method, "score": "EM", **paired(values, pictures, seed=context.seed)})
    tests = correct(tests)
    words = [
        f"{turn}, VEA less base {said(find(tests, {'asked': turn, 'less': 'base', 'score': 'EM'}))}, less inst "
        f"{said(find(tests, {'asked': turn, 'less': 'inst', 'score': 'EM'}))}"
        for turn in answers
    ]
    base = [number(find(means, {"asked": turn, "method": "base", "score": "EM"})["mean"]) for turn in answers]
    sentence = (
        f"EM: {'; '.join(words)}. Base is right in {base[0]} alone and {base[1]} after another question; AUROC of the profiled map changes "
        f"by {said(find(tests, {'score': 'AUROC'}))} (p after Holm over the {len(tests)} tests of the table; {context.order})."
    )
    ours = [f"{100 * find(means, {'asked': 'second turn', 'method': name, 'score': 'F1'})['mean']:.1f}" for name in ("base", "vea")]
    beside, apart = beside_in(context.order, (" to ".join(ours), paper.MULTI_TURN))
    rows = [(f"{row['asked']}: EM", str(row["method"]), row) for row in means if row["score"] == "EM"]
    data = xr.concat(
        [each[["exact_match", "token_f1"]].drop_attrs(deep=False) for each in everyone.values()],
        dim=xr.DataArray(list(everyone), dims="turn", name="turn"),
        join="override",
        compat="override",
        coords="minimal",
    )
    return Result(
        table_of([*means, *tests], "asked", "method", "less", "score", "mean", "difference"),
        plots.effects(drawn(rows, answers["second turn"].attrs), "One turn and two", _TEXT, "exact match", None),
        data.drop_vars([name for name in data.coords if str(name).startswith("knob_")]).assign_attrs(everyone["one turn"].attrs),
        sentence,
        beside,
        apart or "The paper's is another model on dialogues about photographs (VisDial); only the sign compares.",
        n=counted(everyone["one turn"]),
    )


ARTEFACT = Artefact(
    "multi-turn",
    "Asked after another question (paper, appendix: multi-turn)",
    "Does highlighting work in the second turn of a conversation?",
    compute,
)
