"""The main table: every way of answering, its score and its cost, and average ranks over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from scipy.stats import rankdata

from experiments import paper
from experiments.artefacts.comparing import (
    Row,
    absent,
    answerable,
    by_containment,
    correct,
    counted,
    drawn,
    find,
    idle,
    mean_rows,
    paired_rows,
    said,
    table_of,
)
from experiments.artefacts.context import Context, slug
from experiments.artefacts.interface import OWN_GRADCAM, Artefact, Beside, Result
from experiments.artefacts.words import number
from interp import plots
from interp.analysis import cluster_bootstrap, compare, mean_interval
from interp.errors import InterpError

METHODS = ("base", "inst", "cgr", "var", "sink-redistribution", "agla", "vicrop", "vea", "vea-star")
SHOWN = {"exact_match": "EM", "containment": "EM by containment", "token_f1": "F1"}
RANKED = {"exact_match": "EM", "token_f1": "F1"}


def average_ranks(scores: xr.DataArray) -> xr.DataArray:
    """Mean over models of each method's rank in each (1 is best, ties share theirs); of (..., model, method), over `model`."""
    ranks = xr.apply_ufunc(lambda values: rankdata(-values, axis=-1), scores, input_core_dims=[["method"]], output_core_dims=[["method"]])
    return ranks.mean("model")


def ranked(answers: Mapping[str, xr.Dataset], methods: Sequence[str], score: str, seed: int) -> list[Row]:
    """Average ranks as rows, with the middle 95 % of them when pictures are drawn again (the same pictures in every model)."""
    means, redrawn = [], []
    for each in answers.values():
        values = each[score].sel({"method": list(methods)}).transpose("sample", "method").values
        means.append(values.mean(axis=0))
        redrawn.append(cluster_bootstrap(values, each["image_id"].values, seed=seed))
    found = average_ranks(xr.DataArray(np.array(means), dims=("model", "method")))
    spread = average_ranks(xr.DataArray(np.array(redrawn), dims=("model", "draw", "method")))
    low, high = np.quantile(spread.transpose("draw", "method").values, [0.025, 0.975], axis=0)
    n = min(each.sizes["sample"] for each in answers.values())
    rows = zip(methods, found.values.tolist(), low.tolist(), high.tolist(), strict=True)
    labels = {"model": f"average rank over {len(answers)}" if len(answers) > 1 else "rank", "score": RANKED[score]}
    return [{**labels, "method": name, "mean": mean, "lower": lower, "upper": upper, "n": n} for name, mean, lower, upper in rows]


def compute(contexts: Sequence[Context]) -> Result:
    """Every model and method; differences from base and inst, with Holm over the whole table."""
    seed = contexts[0].seed
    everyone = {context.model: context.answers(METHODS) for context in contexts}
    answers = {context.model: by_containment(answerable(everyone[context.model]), context.samples()) for context in contexts}
    means: list[Row] = []
    tests: list[Row] = []
    for model, each in answers.items():
        means += mean_rows(each, SHOWN, seed=seed, model=model)
        for against in ("base", "inst"):
            # vea less inst is asked twice otherwise: inst is compared with base only
            chosen = [name for name in METHODS if name not in ("base", "inst")] if against == "inst" else list(METHODS[1:])
            tests += paired_rows(each, against, chosen, RANKED, seed=seed, model=model)
        means += _unanswerable(everyone[model], model, seed)
    means, tests = _noted(means, everyone), _noted(correct(tests), everyone)
    missing = {name for model, each in answers.items() for name in {**absent(each), **idle(everyone[model])}}
    everywhere = [name for name in METHODS if name not in missing]
    if len(everywhere) < 2:
        raise InterpError("Fewer than two methods are applicable to all of these models, so nothing can be ranked; ask them one by one.")
    ranks = [row for score in RANKED for row in ranked(answers, everywhere, score, seed)]
    sentence = _sentence(contexts, everyone, means, tests, ranks, missing)
    rows = [*ranks, *means, *tests]
    figures = {f"figure_{slug(model)}": _methods(each, [t for t in tests if t["model"] == model], seed) for model, each in answers.items()}
    main = _rank_figure(ranks, answers) if len(contexts) > 1 else figures.popitem()[1]
    data = xr.concat(
        [mean_interval(each[list(SHOWN)].to_dataarray("score"), each["image_id"], seed=seed) for each in answers.values()],
        dim=xr.DataArray(list(answers), dims="model", name="model"),
        combine_attrs="drop_conflicts",
    ).assign_attrs(next(iter(answers.values())).attrs)
    by_words = [row for row in means if row["score"] == SHOWN["containment"]]
    ours = {name: [find(by_words, {"model": model, "method": name}) for model in answers] for name in paper.MAIN_EM}
    theirs = [name for name in everywhere if name in paper.MAIN_EM]
    same = contexts[0].order == paper.ORDER
    beside = tuple(Beside(_percents(ours[name]), _published(name)) for name in paper.MAIN_EM) + tuple(
        Beside(
            f"{number(row['mean'])} ({len(answers)} model{'s' * (len(answers) > 1)})",
            paper.Published(
                f"average rank of {row['method']} among the {len(paper.MAIN_EM)}, by {row['score']}",
                f"{(paper.MAIN_EM_RANK if row['score'] == 'EM' else paper.MAIN_F1_RANK)[str(row['method'])]:g}",
                "8 models, 4 data sets",
                "main table",
                "N-en, N-zh",
            ),
        )
        for score in RANKED
        for row in (ranked(answers, theirs, score, seed) if len(theirs) == len(paper.MAIN_EM) else ())
    )
    apart = (
        "The paper's are other models on InfoVQA, DocVQA, SROIE and TextVQA, with answers of up to 50 tokens (here "
        f"{contexts[0].settings.max_new_tokens}); its EM is containment, beside which ours stands, while our ranks are by strict EM, and "
        f"its F1 is of sets of lemmas, while ours counts words. {OWN_GRADCAM} Only the order of methods compares."
    )
    apart = apart if same else f"The paper's table is {paper.ORDER} and this is {contexts[0].order}. {apart}"
    n = " / ".join(dict.fromkeys(counted(each) for each in everyone.values()))
    table = table_of(rows, "model", "method", "less", "score", "mean", "difference", "lower", "upper")
    return Result(table, main, data, sentence, beside if same else (), apart, figures, n)


def _noted(rows: Sequence[Row], answers: Mapping[str, xr.Dataset]) -> list[Row]:
    """The rows, those of a method that changed nothing in their model with a note that says so."""
    still = {model: idle(each) for model, each in answers.items()}
    return [row | ({"note": still[row["model"]][row["method"]]} if row["method"] in still[row["model"]] else {}) for row in rows]


def _unanswerable(answers: xr.Dataset, model: str, seed: int) -> list[Row]:
    """EM on the questions that the picture does not answer, where there are some."""
    kept = answers["knob_absent"].values.astype(bool) if "knob_absent" in answers.variables else np.zeros(answers.sizes["sample"], bool)
    part = answers.isel(sample=np.flatnonzero(kept))
    return mean_rows(part, {"exact_match": "EM, nothing to be seen"}, seed=seed, model=model) if kept.any() else []


def _methods(answers: xr.Dataset, tests: Sequence[Row], seed: int) -> go.Figure:
    """Scores and differences of a model, with the p-values that the table has."""
    scores = mean_interval(answers["exact_match"], answers["image_id"], seed=seed).assign_attrs(answers.attrs)
    kept = answers.sel({"method": [name for name in METHODS if name not in absent(answers)]})
    compared = []
    for against in ("base", "inst"):
        known = {str(row["method"]): row["p after Holm"] for row in tests if row["less"] == against and row["score"] == "EM"}
        one = compare(kept, against, seed=seed)
        one = one.sel({"method": [name for name in one["method"].values if str(name) in known]})
        p = ("method", [known[str(name)] for name in one["method"].values])
        one = one.drop_vars("p_holm_permutation").assign(p_holm=p)
        compared.append(one.assign_attrs(test="signs of whole pictures flipped", adjusted_over="all tests of the table"))
    return plots.methods(scores, *compared)


def _rank_figure(ranks: Sequence[Row], answers: Mapping[str, xr.Dataset]) -> go.Figure:
    attrs = {**next(iter(answers.values())).attrs, "model": ", ".join(answers)}
    rows = [(f"by {row['score']}", str(row["method"]), row) for row in ranks]
    text = f"Mean rank of each method over {len(answers)} models; 1 is best."
    return plots.effects(drawn(rows, attrs), "Average ranks over models", text, "average rank", None)


def _sentence(
    contexts: Sequence[Context],
    answers: Mapping[str, xr.Dataset],
    means: Sequence[Row],
    tests: Sequence[Row],
    ranks: Sequence[Row],
    missing: set[str],
) -> str:
    parts = []
    for context in contexts:
        rows = [row for row in tests if row["model"] == context.model and row["score"] == "EM"]
        base = find(means, {"model": context.model, "method": "base", "score": "EM"})
        vea = [f"{said(find(rows, {'method': 'vea', 'less': less}))} from {less}" for less in ("base", "inst")]
        better = [f"{row['method']} ({row['difference']:+.3f})" for row in rows if row["less"] == "base" and _clear(row, 1)]
        worse = [f"{row['method']} ({row['difference']:+.3f})" for row in rows if row["less"] == "base" and _clear(row, -1)]
        changed = f"clearly above base: {', '.join(better) or 'none'}; clearly below: {', '.join(worse) or 'none'}"
        unmoved = "".join(f"; {name} {reason}" for name, reason in idle(answers[context.model]).items())
        parts.append(f"{context.model}: EM of base {said(base)}, of VEA {' and '.join(vea)}; {changed}{unmoved}")
    order = sorted((row for row in ranks if row["score"] == "EM"), key=lambda row: row["mean"])
    ranking = ", ".join(f"{row['method']} {row['mean']:.2f}" for row in order)
    lacking = f" Not ranked, as not applicable or without effect in one or more: {', '.join(sorted(missing))}." if missing else ""
    n_tests = sum(not np.isnan(row["p"]) for row in tests)
    return f"{'. '.join(parts)}. Ranks by EM: {ranking} (p after Holm over the {n_tests} tests of the table; {contexts[0].order}).{lacking}"


def _clear(row: Row, sign: int) -> bool:
    return row["p after Holm"] < 0.05 and sign * row["difference"] > 0


def _percents(rows: Sequence[Row]) -> str:
    return ", ".join("not applicable" if np.isnan(row["mean"]) else f"{100 * row['mean']:.1f}" for row in rows)


def _published(name: str) -> paper.Published:
    values = ", ".join(f"{value:.1f}" for value in paper.MAIN_EM[name])
    return paper.Published(f"EM by containment, %, {name}", values, ", ".join(paper.ANSWERING), "main table", "N-en")


ARTEFACT = Artefact(
    "main-qa",
    "Answers of every method, side by side (paper, main table)",
    "Which way of answering is right most often, on the same questions, and what does it cost?",
    compute,
    together=True,
)
