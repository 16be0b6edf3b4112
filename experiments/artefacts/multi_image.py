"""Two pictures: every question asked about its picture beside another one."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments import paper
from experiments.artefacts.asking import ask, first, look, require_trained
from experiments.artefacts.comparing import Row, answerable, correct, counted, drawn, find, mean_rows, paired, paired_rows, said, table_of
from experiments.artefacts.composing import beside_another
from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Result, beside_in
from interp import plots
from interp.analysis import auroc, mean_interval, profiled_map

N = 250
METHODS = ("base", "inst", "vea")
LABEL = "beside another picture"
_TEXT = (
    "Answerable questions about one picture beside one of another scene, first or second in turn; each is highlighted by its own map. "
    "Resampled by the asked picture; the other one recurs too."
)


def asked(context: Context) -> dict[str, xr.Dataset]:
    """Answers to the same questions, about one picture and about two."""
    require_trained(context, "two images")
    both = ask(context, beside_another(context.samples("judged", N)), METHODS, label=LABEL)
    return {"one picture": first(context.answers(METHODS), N), "two pictures": both}


def looked(context: Context) -> xr.Dataset:
    """Per sample: AUROC of the profiled map over both pictures and on the asked one alone, and the share of its attention that is there.

    `even` is that share if attention were spread evenly over all visual tokens.
    """
    ds = look(context, beside_another(context.samples("judged", N)), LABEL)
    maps = profiled_map(ds, context.profile())
    values, picture = maps.values, ds["image_index"].values
    right = picture == ds["knob_asked_picture"].values.astype(int)[:, None]
    visual = picture >= 0
    there = xr.DataArray(right, dims=("sample", "token"))
    mine = ds["coverage"].where(there.values)
    known = {
        "AUROC over both pictures": auroc(maps, ds["coverage"]).values,
        "AUROC on the asked picture": auroc(maps, mine).values,
        "attention on the asked picture": _total(values, right) / _total(values, visual),
        "even": right.sum(axis=1) / visual.sum(axis=1),
    }
    coords = {"image_id": ("sample", ds["image_id"].values.astype(object))}
    coords |= {"knob_absent": ("sample", ds["knob_absent"].values), "sample": ds["sample"].values.astype(object)}
    return xr.Dataset({name: ("sample", each) for name, each in known.items()}, coords=coords, attrs=ds.attrs)


def _total(values: NDArray[np.floating], kept: NDArray[np.bool_]) -> NDArray[np.floating]:
    return np.nansum(np.where(kept, values, 0), axis=1)


def compute(context: Context) -> Result:
    """Each method with one picture and two, VEA's differences, and where the profiled layers look."""
    everyone = asked(context)
    answers = {shown: answerable(each) for shown, each in everyone.items()}
    found = looked(context)
    places = answerable(found)
    means: list[Row] = []
    tests: list[Row] = []
    for shown, each in answers.items():
        means += mean_rows(each, seed=context.seed, asked=shown)
        tests += [row for less in ("base", "inst") for row in paired_rows(each, less, ["vea"], seed=context.seed, asked=shown)]
    for name in ("AUROC over both pictures", "AUROC on the asked picture", "attention on the asked picture", "even"):
        one = mean_interval(places[name], places["image_id"], seed=context.seed)
        low, high = (float(v) for v in one["interval"].values)
        label = "attention if spread evenly" if name == "even" else name
        means.append({"asked": "two pictures", "score": label, "mean": float(one["mean"]), "lower": low, "upper": high, "n": int(one["n"])})
    excess = places["attention on the asked picture"] - places["even"]
    row = {"asked": "two pictures", "score": "attention on the asked picture", "less": "spread evenly"}
    tests.append({**row, **paired(excess, places["image_id"].values, seed=context.seed)})
    tests = correct(tests)
    words = [
        f"{shown}, VEA less base {said(find(tests, {'asked': shown, 'less': 'base', 'score': 'EM'}))}, less inst "
        f"{said(find(tests, {'asked': shown, 'less': 'inst', 'score': 'EM'}))}"
        for shown in answers
    ]
    sees = said(find(means, {"score": "AUROC over both pictures"}))
    share = said(find(means, {"score": "attention on the asked picture"}))
    sentence = (
        f"EM: {'; '.join(words)}. With two pictures the profiled map has AUROC {sees} over both and "
        f"{said(find(means, {'score': 'AUROC on the asked picture'}))} on the asked one, which gets {share} of its attention "
        f"(less an even spread {said(find(tests, {'less': 'spread evenly'}))}; p after Holm over the {len(tests)} tests of the table; "
        f"{context.order})."
    )
    ours = [f"{100 * find(means, {'asked': 'two pictures', 'method': name, 'score': 'EM'})['mean']:.1f}" for name in ("base", "vea")]
    beside, apart = beside_in(context.order, (" to ".join(ours), paper.MULTI_IMAGE))
    rows = [(f"{row['asked']}: EM", str(row["method"]), row) for row in means if row["score"] == "EM"]
    rows += [("two pictures: the profiled map", str(row["score"]), row) for row in means if "method" not in row]
    return Result(
        table_of([*means, *tests], "asked", "method", "less", "score", "mean", "difference"),
        plots.effects(drawn(rows, answers["two pictures"].attrs), "One picture and two", _TEXT, "mean over samples", None),
        found.drop_vars("knob_absent"),
        sentence,
        beside,
        apart or "The paper's is another model on BLINK, whose questions need both pictures; only the sign compares.",
        n=counted(everyone["one picture"]),
    )


ARTEFACT = Artefact(
    "multi-image",
    "Asked about one of two pictures (paper, appendix: multi-image)",
    "Does highlighting work where another picture is shown too, and is the right one looked at?",
    compute,
)
