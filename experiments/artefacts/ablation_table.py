"""The ablation table: VEA without each of its steps, and without its words."""

from __future__ import annotations

from experiments import paper
from experiments.artefacts.comparing import (
    answerable,
    by_containment,
    correct,
    counted,
    drawn,
    find,
    mean_rows,
    paired_rows,
    said,
    table_of,
)
from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Beside, Result
from interp import plots

WITHOUT = {
    "vea-no-denoise": "without denoising",
    "vea-no-smoothing": "without smoothing",
    "vea-all-layers": "without profiling",
    "vea-no-prompt": "without the prompt",
}
_SCORES = {"exact_match": "EM", "containment": "EM by containment", "token_f1": "F1"}


def compute(context: Context) -> Result:
    """EM and F1 of each, and the paired differences from VEA, with Holm over all of them."""
    everyone = context.answers(["vea", *WITHOUT])
    answers = by_containment(answerable(everyone), context.samples())
    means = [row | {"step": WITHOUT.get(str(row["method"]), "vea")} for row in mean_rows(answers, _SCORES, seed=context.seed)]
    tests = correct(paired_rows(answers, "vea", list(WITHOUT), seed=context.seed))
    tests = [row | {"step": WITHOUT[str(row["method"])]} for row in tests]
    words = "; ".join(f"{step} {said(find(tests, {'method': name, 'score': 'EM'}))}" for name, step in WITHOUT.items())
    whole = said(find(means, {"method": "vea", "score": "EM"}))
    sentence = f"EM of VEA {whole}; differences from it: {words} (p after Holm over the {len(tests)} tests of the table; {context.order})."
    rows = [(str(row["score"]), str(row["step"]), row) for row in tests]
    text = "Paired differences from VEA on answerable questions; below zero, the step helps."
    same = context.order == paper.ORDER
    apart = (
        "Of which models and data the paper's rows are is not stated, its F1 is of sets of lemmas (ours counts words), and it has no row "
        "without the prompt. All layers stand in for the profiled ones, as in its authors' code."
    )
    beside = []
    for step, (em, f1) in paper.ABLATION.items():
        ours = [find(means, {"step": step, "score": score}) for score in ("EM by containment", "F1")]
        value = f"{em:.1f} / {f1:.1f}"
        published = paper.Published(f"EM by containment / F1, %, {step}", value, "not stated", "ablation table", "N-en, N-zh")
        beside.append(Beside(" / ".join(f"{100 * row['mean']:.1f}" for row in ours), published))
    return Result(
        table_of([*means, *tests], "method", "step", "less", "score", "mean", "difference"),
        plots.effects(drawn(rows, answers.attrs), "VEA without each of its steps", text, "difference from VEA"),
        answers[[*_SCORES, "seconds", "passes"]],
        sentence,
        tuple(beside) if same else (),
        apart if same else f"The paper's table is {paper.ORDER} and this is {context.order}. {apart}",
        n=counted(everyone),
    )


ARTEFACT = Artefact(
    "ablation",
    "VEA without each of its steps (paper, ablation table)",
    "Which steps of the method matter: denoising, smoothing, choosing layers, the words about the highlight?",
    compute,
)
