"""Table 4: the visual-grounding layers, and how many samples it takes to find the same ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from experiments import paper
from experiments.artefacts.context import Context
from experiments.artefacts.interface import INTERVALS, OTHERS, Artefact, Beside, Result
from experiments.artefacts.words import percent
from interp import plots
from interp.analysis import auroc, mean_interval, profiled_map

COUNTS = (10, 20, 50, 100, 150, 200)
DRAWS = 500


def stability(scores: NDArray[np.float64], pictures: NDArray[np.object_], full: list[int], seed: int) -> xr.Dataset:
    """What share of the full profile's layers a profile on fewer samples finds.

    Parameters
    ----------
    scores
        AUROC (sample, layer); NaN where undefined.
    pictures
        (sample,); drawn whole and with replacement, so that the largest count says how stable the full profile itself is.
    full
        Places of the full profile's layers.
    seed
        Of the draws.

    Returns
    -------
    xr.Dataset
        Over `count`: `mean` share and `interval` (ci_bound), the middle 95 % of `DRAWS` draws; `chance`, of as many random layers.
    """
    rng = np.random.default_rng(seed)
    names, member = np.unique(pictures.astype(object), return_inverse=True)
    groups = [np.flatnonzero(member == k) for k in range(len(names))]
    counts = [*(count for count in COUNTS if count < len(scores)), len(scores)]
    found = np.empty((len(counts), DRAWS))
    for row, count in enumerate(counts):
        for draw in range(DRAWS):
            rows: list[int] = []
            while len(rows) < count:
                rows += groups[int(rng.integers(len(groups)))].tolist()
            picked = scores[rows[:count]]
            known = ~np.isnan(picked)
            means = np.divide(np.nansum(picked, axis=0), known.sum(axis=0), out=np.full(scores.shape[1], -1.0), where=known.any(axis=0))
            best = np.argsort(-means, kind="stable")[: len(full)]
            found[row, draw] = len(set(best.tolist()) & set(full)) / len(full)
    spread = {"long_name": f"middle 95% of {DRAWS} bootstrap draws over pictures", "level": 0.95}
    return xr.Dataset(
        {
            "mean": ("count", found.mean(axis=1), {"long_name": "share of the full profile's layers", "units": "1"}),
            "interval": (("ci_bound", "count"), np.quantile(found, [0.025, 0.975], axis=1), spread),
            "chance": ("count", np.full(len(counts), len(full) / scores.shape[1])),
        },
        coords={"count": counts, "ci_bound": ["lower", "upper"]},
        attrs={"draws": DRAWS, "seed": seed},
    )


def compute(context: Context) -> Result:
    """The paper's table for this model, its layers on the judged samples, and the stability."""
    fitted, ds, profile = context.trace("profile"), context.trace(), context.profile()
    by_layer = auroc(fitted["attention"].mean("head"), fitted["coverage"])
    spread = mean_interval(by_layer, fitted["image_id"], seed=context.seed)
    judged = auroc(ds["attention"].sel(layer=list(profile.layers)).mean("head"), ds["coverage"])
    on_judged = mean_interval(judged.mean("layer"), ds["image_id"], seed=context.seed)
    of_map = mean_interval(auroc(profiled_map(ds, profile), ds["coverage"]), ds["image_id"], seed=context.seed)
    n_layers, layers = by_layer.sizes["layer"], list(profile.layers)
    selected = spread["mean"].sel(layer=layers)
    places = [int(np.flatnonzero(by_layer["layer"].values == layer)[0]) for layer in layers]
    pictures = fitted["image_id"].values.astype(object)
    defined = by_layer.notnull().any("layer").values
    found = stability(by_layer.transpose("sample", "layer").values[defined], pictures[defined], places, context.seed)
    n = int(defined.sum())
    depth = f"{layers[0] / (n_layers - 1):.2f}-{layers[-1] / (n_layers - 1):.2f}" if n_layers > 1 else "0"
    everywhere, chosen = 100 * float(spread["mean"].mean()), 100 * float(selected.mean())
    rows = [
        {"of": row.model, "layers": row.n_layers, "AUROC all": row.auroc_all, "#": len(row.layers), "AUROC selected": row.auroc_selected}
        | {
            "ids": " ".join(map(str, row.layers)),
            "depth": _depth(row.layers, row.n_layers),
            "samples": "100 TextVQA",
            "source": "paper, Table 4",
        }
        for row in paper.LAYER_PROFILES
    ]
    rows.insert(
        0,
        {"of": context.model, "layers": n_layers, "AUROC all": everywhere, "#": len(layers), "AUROC selected": chosen}
        | {"ids": " ".join(map(str, layers)), "depth": depth, "samples": f"{n} {context.settings.benchmark}", "source": "here"},
    )
    for count in found["count"].values:
        one = found.sel(count=count)
        low, high = one["interval"].values.tolist()
        rows.append(
            {"of": f"{context.model}: found again by {int(count)} samples", "overlap": float(one["mean"]), "lower": low, "upper": high}
            | {"chance": float(one["chance"]), "source": "here"}
        )
    enough = next((int(c) for c in found["count"].values if bool((found["mean"].sel(count=slice(c, None)) >= 0.9).all())), None)
    stable = f"from {enough} samples on" if enough is not None else f"with no number of samples up to {n}"
    elsewhere, mapped = (100 * float(each["mean"]) for each in (on_judged, of_map))
    judged_words = f"{elsewhere:.1f} % on the judged samples, where their mean map has {mapped:.1f} %"
    hundred = found.sel(count=100) if 100 in found["count"].values else found.isel(count=-1)
    sentence = (
        f"Profiled: layer{'s' * (len(layers) > 1)} {' '.join(map(str, layers))}, counted from 0, so {len(layers)} of {n_layers} (depth "
        f"{depth}); mean AUROC of all layers {everywhere:.1f} %, of the profiled {chosen:.1f} % where chosen and {judged_words}. Profiles "
        f"fitted again find 90 % of them {stable}; {DRAWS} fitted on {int(hundred['count'])} samples find "
        f"{percent(hundred['mean'])} of them on average ({context.order})."
    )
    data = xr.Dataset(
        {
            "auroc": spread["mean"],
            "interval": spread["interval"],
            "selected": ("layer", [int(k in layers) for k in by_layer["layer"].values]),
        },
        attrs={**fitted.attrs, "n": n},
    )
    drawn = data.rename(auroc="mean")
    stored = data.assign({f"overlap_{name}": found[name] for name in found.data_vars})
    known = paper.LAYER_PROFILES
    beside = tuple(
        Beside(ours, paper.Published(what, ", ".join(f"{each:.1f}" for each in theirs), "6 models", "Table 4", "L, N-en"))
        for ours, what, theirs in (
            (f"{everywhere:.1f}", "mean AUROC of all layers, %", [row.auroc_all for row in known]),
            (f"{chosen:.1f}", "mean AUROC of the profiled layers, %, where chosen", [row.auroc_selected for row in known]),
        )
    )
    apart = (
        OTHERS
        if context.order == paper.ORDER
        else f"The paper's table is {paper.ORDER} and this is {context.order}: its rows are for reference only."
    )
    figure = plots.profile_stability(drawn, found)
    intervals = f"{INTERVALS} Of the overlap: the middle 95 % of {DRAWS} profiles fitted on pictures drawn again."
    same = context.order == paper.ORDER
    n_judged, n_fitted = (each.sizes["sample"] for each in (ds, fitted))
    counts = f"{n}{f', those of {n_fitted} whose evidence can be ranked' * (n < n_fitted)} (judged samples: {n_judged})"
    return Result(
        pd.DataFrame(rows), figure, stored, sentence, beside if same else (), apart, n=counts, part="profile", intervals=intervals
    )


def _depth(layers: tuple[int, ...], n_layers: int) -> str:
    return f"{math.floor(100 * layers[0] / (n_layers - 1) + 0.5) / 100:.2f}-{math.floor(100 * layers[-1] / (n_layers - 1) + 0.5) / 100:.2f}"


ARTEFACT = Artefact(
    "profile-table",
    "Layer profiling and its stability (paper, Table 4)",
    "Which layers look at the evidence best, and how many samples does it take to know?",
    compute,
)
