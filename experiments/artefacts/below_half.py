"""The appendix's AUROC below 0.5: how often the profiled map looks away from the evidence, right and wrong answers apart."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from experiments import paper
from experiments.artefacts.context import ORDERS, Context
from experiments.artefacts.interface import NONE_SEEN, OTHERS, Artefact, Result, beside_in
from experiments.artefacts.words import cells, number, p_value, share
from interp import plots
from interp.analysis import auroc, by_correctness, holm, mean_interval, profiled_map


def compute(context: Context) -> Result:
    """Both prompt orders, Holm over the two tests."""
    rows, points, tests = [], [], []
    said: dict[str, str] = {}
    for order in ORDERS:
        ds = context.trace(order=order)
        quality = auroc(profiled_map(ds, context.profile(order)), ds["coverage"])
        below = (quality < 0.5).astype(float).where(quality.notnull())
        everyone = mean_interval(below, ds["image_id"], seed=context.seed)
        by_group = by_correctness(below, ds, seed=context.seed)
        tests.append(float(by_group["p_value"]))
        defined, right = below.notnull().values, ds["exact_match"].values
        of_group = {"all": defined, "correct": defined & (right == 1), "wrong": defined & (right == 0)}
        for group in ("all", "correct", "wrong"):
            one = everyone if group == "all" else by_group.sel(group=group)
            rows.append({"order": order, "answers": group, **cells(one), "n": int(one["n"])})
            said[f"{order}: {group}"] = share(one, len(set(ds["image_id"].values.astype(object)[of_group[group]])))
            points.append(
                xr.Dataset({name: one[name].drop_attrs() for name in ("mean", "interval", "n")}).drop_vars("group", errors="ignore")
            )
        rows.append({"order": order, "answers": "correct less wrong", **cells(by_group, "difference", "difference_interval")})
    for row, p in zip([row for row in rows if row["answers"] == "correct less wrong"], zip(tests, holm(tests), strict=True), strict=True):
        row |= {"p": p[0], "p after Holm": float(p[1])}
    labels = [f"{row['order']}: {row['answers']}" for row in rows if row["answers"] != "correct less wrong"]
    groups = [str(row["answers"]) for row in rows if row["answers"] != "correct less wrong"]
    found = xr.concat(points, dim=xr.DataArray(labels, dims="row", name="row")).assign_coords(group=("row", groups))
    found = found.assign_attrs({**context.trace().attrs, "prompt_order": " and ".join(ORDERS)})
    found["interval"].attrs = {"long_name": "95% percentile bootstrap interval over image_id"}
    adjusted = holm(tests)
    sentence = "; ".join(
        f"{order}: AUROC of the profiled map under 0.5 in {said[f'{order}: all']} of the samples, {said[f'{order}: correct']} of those "
        f"answered right and {said[f'{order}: wrong']} of those answered wrong ({p_value(p)} after Holm)"
        for order, p in zip(ORDERS, adjusted, strict=True)
    )
    beside, apart = beside_in(ORDERS[0], (said[f"{ORDERS[0]}: all"], paper.BELOW_HALF))
    low, high = paper.BELOW_HALF_RANGE
    text = "Share of samples whose profiled map has an AUROC under 0.5 on the evidence."
    figure = plots.shares(
        found,
        "Looking away from the evidence",
        text,
        (low, high, f"paper, {number(100 * low)} to {number(100 * high)} % by model, image-first"),
    )
    n = int(found["n"].max())
    return Result(pd.DataFrame(rows), figure, found, sentence + ".", beside, apart or OTHERS, n=n, intervals=NONE_SEEN)


ARTEFACT = Artefact(
    "auroc-below-half",
    "Samples whose profiled map looks away from the evidence (paper, appendix)",
    "How often is AUROC under 0.5, and is it what wrong answers have in common?",
    compute,
)
