"""What the paper's reviewers asked, on one page: what highlighting spoils, loses, costs, and changes."""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.artefacts import attending_again, multi_image, multi_turn, strength
from experiments.artefacts.comparing import (
    Row,
    absent,
    answerable,
    correct,
    counted,
    drawn,
    find,
    paired_rows,
    said,
    table_of,
)
from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Result
from experiments.artefacts.words import bounds, number
from interp import plots
from interp.analysis import mean_interval
from interp.errors import InterpError

METHODS = ("base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-star")
EM = {"exact_match": "EM"}
HURT = "Does highlighting hurt when attention was wrong?"
LOST = "What does dimming lose?"
COST = "What does it cost?"
SEVERAL = "Several turns, several pictures?"
ATTENDS = "Does it change how the model attends, or only its picture?"
_TEXT = "Paired differences in exact match of answerable questions, by the reviewers' questions."


def by_quality(answers: xr.Dataset, seed: int) -> list[Row]:
    """VEA's effect where the profiled map's AUROC was low, middle and high (terciles), and under one half.

    Maps that are as good as any, of which there may be more than a third, are the high ones.
    """
    quality = answers["profiled_auroc"].values
    low, high = np.nanquantile(quality, [1 / 3, 2 / 3])
    digits = _digits(low, high)
    tied = high == np.nanmax(quality)
    highest = quality >= high if tied else quality > high
    lowest = (quality <= low) & ~highest
    parts = {f"AUROC under 0.5 (n = {int((quality < 0.5).sum())})": quality < 0.5, f"lowest AUROC, to {low:.{digits}f}": lowest}
    middle = (quality > low) & ~highest
    if middle.any():
        parts[f"middle AUROC, {'below' if tied else 'to'} {high:.{digits}f}"] = middle
    parts[f"highest AUROC, {'of' if tied else 'above'} {high:.{digits}f}"] = highest
    made: list[Row] = []
    for name, kept in parts.items():
        part = answers.isel(sample=np.flatnonzero(kept))
        for less in ("inst", "base"):
            labels = {"asked": HURT, "of": name}
            if part.sizes["sample"]:
                made += paired_rows(part, less, ["vea"], EM, seed=seed, **labels)
            else:
                nothing = {"difference": np.nan, "lower": np.nan, "upper": np.nan, "n": 0}
                made.append({**labels, "method": "vea", "less": less, "score": "EM", **nothing, "note": "no such sample"})
    return made


def _digits(low: float, high: float) -> int:
    """As many as tell two bounds from 1 and from each other, where they differ."""
    pairs = [(a, b) for a, b in ((low, high), (low, 1.0), (high, 1.0)) if a != b]
    return next((n for n in range(2, 9) if all(round(a, n) != round(b, n) for a, b in pairs)), 9)


def dimming(answers: xr.Dataset, swept: xr.Dataset, seed: int) -> list[Row]:
    """Dimming without a place, in the wrong place, undone by the original beside it, and by strength."""
    pairs = (("vea-uniform", "inst"), ("vea-shifted", "inst"), ("vea", "vea-uniform"), ("vea", "vea-shifted"), ("vea-star", "vea"))
    made = [row for method, less in pairs for row in paired_rows(answers, less, [method], EM, seed=seed, asked=LOST, of="all")]
    for alpha in strength.ALPHAS[:-1]:
        name = strength.method_at(alpha, strength.SIGMA)
        labels = {"asked": LOST, "of": f"alpha {alpha:g}"}
        made += [row | {"method": "vea"} for row in paired_rows(swept, "inst", [name], EM, seed=seed, **labels)]
    return made


def costs(answers: xr.Dataset, seed: int) -> list[Row]:
    """Forward-pass equivalents and seconds of a sample, by method; not tested."""
    made: list[Row] = []
    for variable, unit in (("passes", "forward-pass equivalents"), ("seconds", "seconds")):
        found = mean_interval(answers[variable], answers["image_id"], seed=seed)
        for method in (str(name) for name in answers["method"].values if str(name) not in absent(answers)):
            one = found.sel({"method": method})
            low, high = bounds(one["interval"])
            row: Row = {"asked": COST, "of": "a sample", "method": method, "score": unit, "mean": float(one["mean"])}
            made.append({**row, "lower": low, "upper": high, "n": int(one["n"])})
    return made


def elsewhere(context: Context, seed: int) -> tuple[list[Row], str]:
    """VEA's effect in the second turn, and beside another picture; and why one is left out."""
    made: list[Row] = []
    lacking = []
    for name, asked in (("second turn", multi_turn.asked), ("two pictures", multi_image.asked)):
        try:
            part = answerable(asked(context)[name])
        except InterpError as error:  # scenes of one benchmark alone can be composed, and not every model was trained for both
            lacking.append(f" Left out, {name}: {error}")
            continue
        made += [row for less in ("inst", "base") for row in paired_rows(part, less, ["vea"], EM, seed=seed, asked=SEVERAL, of=name)]
    return made, "".join(lacking)


def compute(context: Context) -> Result:
    """All five questions, with Holm over every test of the page."""
    seed = context.seed
    everyone = context.answers(METHODS)
    answers = answerable(everyone)
    if not np.isfinite(answers["profiled_auroc"].values).any():
        raise InterpError("No sample has evidence that the model can see, so attention was neither right nor wrong; take other samples.")
    swept = answerable(strength.sweep(context))
    several, why = elsewhere(context, seed)
    again = attending_again.measured(context)
    tests = by_quality(answers, seed) + dimming(answers, swept, seed) + several
    tests += [{"asked": ATTENDS, **row} for row in attending_again.rows(again, seed)]
    tests, cost = correct(tests), costs(answers, seed)
    rows = [*tests, *cost]
    n_tests = sum(not np.isnan(row.get("p", np.nan)) for row in rows)
    sentence = f"{_sentence(tests, cost)} (p after Holm over the {n_tests} tests of the page; {context.order}).{why}"
    shown = [(str(row["asked"]), f"{row['of']}: {row['method']} less {row['less']}", row) for row in tests if row.get("score") == "EM"]
    attending = [row for row in tests if row["asked"] == ATTENDS]
    seen = [(str(row["score"]), str(row["of"]), row) for row in attending if row["score"] in attending_again.ATTENTION]
    content = [(str(row["score"]), str(row["of"]), row) for row in attending if row["score"] in attending_again.CONTENT]
    paid = [(str(row["score"]), str(row["method"]), row) for row in cost]
    words = "Paired differences between the picture as it is, highlighted, and with the highlight moved elsewhere; all in VEA's words."
    figures = {
        "figure_attention": plots.effects(drawn(seen, again.attrs), "How the model attends to what was highlighted", words, "difference"),
        "figure_content": plots.effects(
            drawn(content, again.attrs), "What enters the decoder of the evidence", f"{words} Lengths over the original's.", "difference"
        ),
        "figure_cost": plots.effects(drawn(paid, answers.attrs), "What an answer costs", "Means over samples.", "per sample", None),
    }
    measures = [*attending_again.ATTENTION, *attending_again.CONTENT]
    return Result(
        table_of(rows, "asked", "of", "method", "less", "score", "difference", "mean", "lower", "upper", "n"),
        plots.effects(drawn(shown, answers.attrs), "The reviewers' questions", _TEXT, "difference in exact match"),
        again[measures],
        sentence,
        (),
        "The reviews ask; the paper's own answers are not known as numbers.",
        figures,
        counted(everyone) + f"; attention and alpha: {again.sizes['sample']}",
    )


def _sentence(tests: list[Row], cost: list[Row]) -> str:
    def tested(asked: str, begins: str, method: str, less: str) -> Row:
        named = [row for row in tests if row["asked"] == asked and str(row["of"]).startswith(begins)]
        return find(named, {"method": method, "less": less})

    def effect(asked: str, begins: str, method: str, less: str) -> str:
        return said(tested(asked, begins, method, less))

    def where(begins: str) -> str:
        row = tested(HURT, begins, "vea", "inst")
        return f"at the {row['of']} (n = {row['n']}) {said(row)}"

    parts = [
        f"Effect of the highlight (VEA less inst, EM) where attention was wrong (AUROC < 0.5): {effect(HURT, 'AUROC', 'vea', 'inst')}; "
        f"{where('lowest')}, {where('highest')}",
        f"Dimming without a place {effect(LOST, 'all', 'vea-uniform', 'inst')} and in the wrong place "
        f"{effect(LOST, 'all', 'vea-shifted', 'inst')} from inst; the original beside it {effect(LOST, 'all', 'vea-star', 'vea')} from VEA",
    ]
    passes = {row["method"]: number(row["mean"]) for row in cost if row["score"] == "forward-pass equivalents"}
    parts.append(f"Forward passes: {', '.join(f'{name} {value}' for name, value in passes.items())}")
    several = {name: effect(SEVERAL, name, "vea", "inst") for name in dict.fromkeys(str(r["of"]) for r in tests if r["asked"] == SEVERAL)}
    if several:
        parts.append(f"VEA less inst, {', '.join(f'{name} {value}' for name, value in several.items())}")
    moved = [
        f"{name} by {said(find(tests, {'score': name, 'of': 'highlighted less original'}))} (the highlight moved elsewhere "
        f"{said(find(tests, {'score': name, 'of': 'shifted less original'}))})"
        for name in attending_again.ATTENTION[:2]
    ]
    parts.append(f"Highlighting the picture changes the {' and the '.join(moved)}")
    name = attending_again.CONTENT[0]
    lit, elsewhere, less = (find(tests, {"score": name, "of": of}) for of in ("highlighted", "shifted", "highlighted less shifted"))
    parts.append(f"The {name} is {said(lit)} of their length, {said(elsewhere)} with the highlight elsewhere (difference {said(less)})")
    return ". ".join(parts)


ARTEFACT = Artefact(
    "reviewers",
    "What the reviewers asked",
    f"{HURT} {LOST} {COST} {SEVERAL} {ATTENDS}",
    compute,
)
