"""The attribution table: which map finds the evidence, with none of them touching the answer."""

from __future__ import annotations

import numpy as np
import xarray as xr

import interp
from experiments import paper
from experiments.artefacts.comparing import Row, correct, drawn, find, mean_rows, paired_rows, said, table_of
from experiments.artefacts.context import Context
from experiments.artefacts.interface import OWN_GRADCAM, Artefact, Beside, Result
from interp import plots
from interp.analysis import auroc, ndcg

N = 250
MAPS = ("layers-0-100", "layers-0-50", "layers-50-100", "var", "agla", "rollout", "gradient-relevance", "vea")
MEASURES = {"auroc": "AUROC", "ndcg": "NDCG"}
_THEIRS = {"layers-0-100": "layers 0-100 %", "layers-0-50": "layers 0-50 %", "layers-50-100": "layers 50-100 %"}


def judged(context: Context) -> xr.Dataset:
    """AUROC and NDCG of every map on the evidence (method, sample), NaN where there is none to rank; with the cost of each map."""
    maps = interp.methods.attribution_maps(
        context.vlm(),
        context.samples("judged", N),
        MAPS,
        context.profile(),
        batch_size=context.settings.batch_size,
        max_new_tokens=context.settings.max_new_tokens,
    )
    found = {name: measure(maps["map"], maps["coverage"]) for name, measure in (("auroc", auroc), ("ndcg", ndcg))}
    kept = maps[["seconds", "passes"]].assign({name: (("method", "sample"), one.values, one.attrs) for name, one in found.items()})
    pictures = maps["image_id"].values.astype(object)
    return kept.assign_coords(image_id=("sample", pictures)).assign_attrs({**maps.attrs, "seed": context.seed})


def compute(context: Context) -> Result:
    """Each map's measures, and their paired differences from the profiled map's, with Holm over all of them."""
    found = judged(context)
    means = mean_rows(found, MEASURES, seed=context.seed)
    tests = correct(paired_rows(found, "vea", scores=MEASURES, seed=context.seed))
    rows: list[tuple[str, str, Row]] = [(str(row["score"]), str(row["method"]), row) for row in means]
    words = ", ".join(f"{name} {said(find(means, {'method': name, 'score': 'AUROC'}))}" for name in MAPS)
    above = [row["method"] for row in tests if row["score"] == "AUROC" and row["p after Holm"] < 0.05 and row["difference"] > 0]
    below = [row["method"] for row in tests if row["score"] == "AUROC" and row["p after Holm"] < 0.05 and row["difference"] < 0]
    sentence = (
        f"Mean AUROC on the evidence: {words}. Clearly above the profiled map (vea): {', '.join(above) or 'none'}; clearly below: "
        f"{', '.join(below) or 'none'} (p < 0.05 after Holm over the {len(tests)} tests of the table; {context.order})."
    )
    beside, apart = _beside(means, context.order)
    data = found[[*MEASURES, "seconds", "passes"]].assign_coords(image_id=("sample", found["image_id"].values))
    n = int(np.isfinite(found["auroc"].sel({"method": "vea"}).values).sum())
    text = "Each map before any smoothing, token by token; AUROC has 0.5 by chance. Cost of a map by itself: see the table."
    return Result(
        table_of([*means, *tests], "method", "less", "score", "mean", "difference"),
        plots.effects(drawn(rows, found.attrs), "Which map finds the evidence", text, "mean over samples", None),
        data.drop_vars([name for name in data.coords if name not in ("method", "sample", "image_id")]),
        sentence,
        beside,
        apart,
        n=f"{n}, those of {found.sizes['sample']} whose evidence can be ranked" if n < found.sizes["sample"] else n,
    )


def _beside(means: list[Row], order: str) -> tuple[tuple[Beside, ...], str]:
    other = "The paper's are other models on other data (samples of VisualCoT); only the order of the maps compares. " + OWN_GRADCAM
    if order != paper.ORDER:
        return (), f"The paper's table is {paper.ORDER} and this is {order}. {other}"
    pairs = []
    for name in MAPS:
        theirs = paper.ATTRIBUTION.get(_THEIRS.get(name, name))
        if theirs is not None:
            ours = " / ".join(f"{100 * find(means, {'method': name, 'score': score})['mean']:.1f}" for score in MEASURES.values())
            value = ", ".join(f"{first:.1f} / {second:.1f}" for first, second in theirs)
            of = ", ".join(paper.ATTRIBUTING)
            pairs.append(Beside(ours, paper.Published(f"AUROC / NDCG, %, {name}", value, of, "attribution table", "N-en, N-zh")))
    return tuple(pairs), other


ARTEFACT = Artefact(
    "attribution",
    "Which map finds the evidence (paper, attribution table)",
    "Do the profiled layers rank the evidence better than fixed depths, other methods' maps, and attribution through all layers?",
    compute,
)
