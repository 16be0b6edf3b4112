"""Every figure, ordinary and extreme, from planted results with the shapes that the analysis gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from PIL import Image

from interp.analysis import (
    Profile,
    by_correctness,
    by_grounding_quality,
    grounding,
    mean_interval,
    profile_layers,
    rapt,
    segment_mass,
)
from interp.analysis.disconnect import disconnect
from interp.analysis.fates import FATES
from interp.analysis.paired import compare
from interp.plots import (
    Example,
    accuracy_by_quality,
    across_models,
    attention_over_image,
    attention_shift,
    before_after,
    by_level,
    curves_by_model,
    disconnect_table,
    evidence_by_correctness,
    fate_shares,
    gallery,
    head_effects,
    head_grounding,
    knockout_curves,
    layer_maps,
    look_and_write,
    mass_by_layer,
    method_stages,
    methods,
    patching_map,
    profile_stability,
    shares,
)
from interp.plots import (
    effects as effect_rows,
)
from interp.testing import traces

PROVENANCE = {"model": "demo/llava", "benchmark": "digits", "split": "test", "prompt": "base", "prompt_order": "image-first"}
EVIDENCE = ("evidence", "non-evidence")
METHODS = ["base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-boxes"]
LONG = [*METHODS, "a-method-with-a-very-long-name-indeed", "visual attention refinement, thresholded", "agla", "cgr", "vcd", "pai"]
BINS = ["0.00 to 0.50", "0.50 to 0.70", "0.70 to 0.80", "0.80 to 0.90", "0.90 to 1.00"]


def summary(mean: xr.DataArray, spread: float = 0.1, n: int = 500) -> xr.Dataset:
    """Mean, interval and n of planted values; where a value is NaN its n is 0."""
    bounds = xr.concat([mean * (1 - spread), mean * (1 + spread)], dim=xr.DataArray(["lower", "upper"], dims="ci_bound", name="ci_bound"))
    bounds.attrs = {"long_name": "95% percentile bootstrap interval over image_id", "level": 0.95}
    return xr.Dataset({"mean": mean, "interval": bounds, "n": mean.notnull() * n}, attrs=PROVENANCE)


def shift(n_layers: int, every: int = 1) -> xr.Dataset:
    """From text to image; with `every` > 1 only each so-many-th layer reaches the picture."""
    depth = np.linspace(0, 1, n_layers)
    values = np.stack([20 * np.exp(-3 * depth) + 0.5, 0.2 + 0.4 * depth], axis=1)
    mean = xr.DataArray(values, dims=["layer", "section"], coords={"layer": np.arange(n_layers), "section": ["question", "image"]})
    return summary(mean.where(mean["layer"] % every == every - 1))


def correctness(n_layers: int, every: int = 1) -> xr.Dataset:
    """Evidence above non-evidence, more where the answer is right."""
    peak = 6 * np.exp(-(((np.linspace(0, 1, n_layers) - 0.6) / 0.25) ** 2))
    flat = np.full(n_layers, 0.7)
    values = [np.stack([1 + peak, flat], axis=1), np.stack([0.9 + 0.6 * peak, flat + 0.05], axis=1)]
    coords = {"group": ["correct", "wrong"], "layer": np.arange(n_layers), "section": ["evidence", "non-evidence"]}
    mean = xr.DataArray(np.stack(values), dims=["group", "layer", "section"], coords=coords)
    result = summary(mean.where(mean["layer"] % every == every - 1))
    result["n"] = result["n"].where(result["group"] == "correct", 188)
    difference = summary(result["mean"].sel(group="correct", drop=True) - result["mean"].sel(group="wrong", drop=True))
    return result.assign(difference=difference["mean"], difference_interval=difference["interval"])


def all_right() -> xr.Dataset:
    """By correctness where no answer is wrong, as the analysis gives it."""
    ds = traces(n=4)
    return by_correctness(rapt(ds), ds.assign(exact_match=ds["exact_match"] * 0 + 1), n_permutations=20)


def heads(n_layers: int, n_heads: int, every: int = 1) -> tuple[xr.Dataset, Profile]:
    """Mean AUROC by head, and a profile with the best of them."""
    values = np.clip(np.random.default_rng(0).normal(0.6, 0.15, (n_layers, n_heads)), 0, 1)
    mean = xr.DataArray(values, dims=["layer", "head"], coords={"layer": np.arange(n_layers), "head": np.arange(n_heads)})
    mean = mean.where(mean["layer"] % every == every - 1)
    order = np.argsort(-np.nan_to_num(mean.values).ravel())[: max(1, n_layers * n_heads // 10)]
    best = tuple((int(k) // n_heads, int(k) % n_heads) for k in order)
    return summary(mean), profile_of(mean, (n_layers // 2, n_layers // 2 + 1), best)


def profile_of(mean: xr.DataArray, layers: tuple[int, ...], best: tuple[tuple[int, int], ...]) -> Profile:
    """A profile with these layers and heads."""
    return Profile(layers, (0.5,) * mean.sizes["layer"], (), (), 0.1, "any", 0, {}, heads=best)


def scores(names: Sequence[str]) -> tuple[xr.Dataset, list[xr.Dataset]]:
    """Scores of methods and their comparisons with the first two."""
    rng = np.random.default_rng(1)
    mean = xr.DataArray(rng.uniform(0.4, 0.8, len(names)), dims="method", coords={"method": list(names)})
    compared = []
    for against in names[:2]:
        kept = [name for name in names if name != against]
        difference = (mean - float(mean[list(names).index(against)])).loc[kept]
        each = summary(difference).rename(mean="difference")
        p = xr.DataArray(rng.random(len(kept)) ** 6, dims="method", coords={"method": kept})
        compared.append(each.assign(p_holm=p).assign_attrs(against=against))
    return summary(mean), compared


def binned(names: Sequence[str] = ()) -> xr.Dataset:
    """Scores that rise with quality; the last bin is empty."""
    mean = xr.DataArray([0.3, 0.4, 0.55, 0.8, np.nan], dims="bin", coords={"bin": BINS})
    if names:
        mean = mean.expand_dims(method=list(names)) * xr.DataArray(np.linspace(0.8, 1.1, len(names)), dims="method")
    return summary(mean, n=50)


def picture(width: int, height: int) -> Image.Image:
    """A gradient."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, np.full((height, width), 120)], axis=-1).astype(np.uint8))


def traced(n_layers: int = 6, side: int = 8, number: int = 0, stretch: tuple[float, float] = (1, 1)) -> tuple[xr.Dataset, Image.Image]:
    """One sample of a synthetic trace with its picture, stretched in both directions."""
    sample = traces(n=2, n_layers=n_layers, n_heads=2, side=side).isel(sample=number)
    size = np.round(sample["image_size"].values[0] * stretch).astype(int)
    scale = np.tile(size / sample["image_size"].values[0], 2)
    sample["evidence_box"] = sample["evidence_box"] * scale
    return sample.assign_coords(token_box=sample["token_box"] * scale), picture(*(int(v) for v in size))


def highlighted(sample: xr.Dataset, image: Image.Image, before: str = "nine", after: str = "seven") -> Any:
    """Before and after, with a round evidence map that has a strip without tokens."""
    y, x = np.mgrid[0 : image.height, 0 : image.width]
    values = np.exp(-(((x / image.width - 0.4) / 0.2) ** 2) - ((y / image.height - 0.4) / 0.2) ** 2)
    values[:, : max(1, image.width // 12)] = np.nan
    gain = np.nan_to_num(0.5 + 0.5 * values, nan=1.0)[..., None]
    lit = Image.fromarray((np.asarray(image) * gain).round().astype(np.uint8))
    return before_after(sample, image, xr.DataArray(values, dims=["y", "x"]), lit, before, after)


def live(sample: xr.Dataset) -> xr.Dataset:
    """The sample with a long question full of what plotly would interpret."""
    text = "What <b>is</b> the price &amp; sum of $5$ and <a href='x'>$7$</a> on the " + "very " * 60 + "long question?"
    return sample.assign(question=xr.DataArray(text))


def _effect() -> xr.Dataset:
    effect = binned()
    shifted = effect.assign(mean=effect["mean"] - 0.5, interval=effect["interval"] - 0.5)
    shifted["mean"].attrs["long_name"] = "vea minus inst"
    return shifted


def _methods(names: Sequence[str]) -> go.Figure:
    mean, compared = scores(names)
    return methods(mean, *compared[: len(names) - 1])


def answers() -> xr.Dataset:
    """Answers of three methods to the questions of a synthetic trace, with the trace's own provenance."""
    ds = traces(n=24)
    right = np.random.default_rng(2).random((3, 24)) < np.array([0.4, 0.5, 0.7])[:, None]
    coords = {"method": METHODS[:3], "sample": ds["sample"], "image_id": ds["image_id"]}
    return xr.Dataset({"exact_match": (("method", "sample"), right.astype(float))}, coords=coords, attrs=ds.attrs)


def judged(readable: bool = True, null: str | tuple[str, ...] = ("placed", "distractor")) -> xr.Dataset:
    """A disconnect table of a synthetic trace, with a coin for what is readable."""
    ds = traces(n=24)
    reads = xr.DataArray(np.random.default_rng(3).random(24) < 0.7, dims="sample", coords={"sample": ds["sample"]}).astype(float)
    profile = replace(profile_layers(ds), image_ids=())
    return disconnect(ds, profile, reads if readable else None, null=null)


def unheld(result: xr.Dataset) -> xr.Dataset:
    """The same without a distractor in any picture."""
    held = result["null"] != "distractor"
    cleared = {name: v.where(held) for name, v in result.data_vars.items() if "null" in v.dims and v.dtype.kind == "f"}
    return result.assign({**cleared, "n": result["n"] * held, "count": result["count"] * held})


def effects(n_layers: int, n_heads: int) -> xr.Dataset:
    """Effects of replacing heads, of which a few matter."""
    values = np.random.default_rng(4).normal(0, 0.02, (n_layers, n_heads))
    values[n_layers // 2, :3] = [-0.9, 0.4, -0.3]
    mean = xr.DataArray(values, dims=["layer", "head"], coords={"layer": np.arange(n_layers), "head": np.arange(n_heads)})
    mean.attrs = {"long_name": "change of the log-probability of the reference", "units": "nats"}
    result = summary(mean)
    half = 0.05 * np.array([-1, 1])[:, None, None]
    result["interval"] = result["interval"].copy(data=mean.values + half)
    return result.assign_attrs(mode="zero", positions="last")


def knocked(n_layers: int, wrong: bool = True) -> xr.Dataset:
    """Losses without the evidence, larger where the answer is right, and small ones without the control."""
    peak = -1.5 * np.exp(-(((np.linspace(0, 1, n_layers) - 0.5) / 0.2) ** 2))
    values = np.stack([np.stack([peak, 0.1 * peak]), np.stack([0.3 * peak, 0.1 * peak]) * (1 if wrong else np.nan)])
    coords = {"group": ["correct", "wrong"], "block": ["evidence", "control"], "layer": np.arange(n_layers)}
    mean = xr.DataArray(values, dims=["group", "block", "layer"], coords=coords)
    mean.attrs = {"long_name": "change of the log-probability of the reference", "units": "nats"}
    excess = summary(mean.sel(block="evidence", drop=True) - mean.sel(block="control", drop=True))
    return summary(mean).assign(excess=excess["mean"], excess_interval=excess["interval"]).assign_attrs(window=9)


def recovered(n_layers: int, rows: str, names: Sequence[Any]) -> xr.Dataset:
    """Recovery that moves from the first to the last row with depth."""
    depth, place = np.linspace(0, 1, n_layers)[:, None], np.linspace(0, 1, len(names))[None]
    mean = xr.DataArray(
        np.exp(-(((depth - place) / 0.3) ** 2)), dims=["layer", rows], coords={"layer": np.arange(n_layers), rows: list(names)}
    )
    return summary(mean, n=120).assign_attrs(site="residual", direction="denoising")


def properties(n_layers: int, n_heads: int) -> xr.Dataset:
    """Two properties of heads, some unknown."""
    rng = np.random.default_rng(5)
    look = np.clip(rng.normal(0.6, 0.15, (n_layers, n_heads)), 0, 1)
    look[0] = np.nan
    dims = ("layer", "head")
    variables = {
        "grounding": (dims, look, {"long_name": "AUROC of attention on the evidence"}),
        "delta_logprob": (dims, rng.normal(0, 0.3, look.shape), {"long_name": "change of the log-probability of the reference"}),
    }
    coords = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    return xr.Dataset(variables, coords=coords, attrs={**PROVENANCE, "n": 200, "spearman": "-0.31 [-0.45, -0.12]"})


def lost(groups: Sequence[str]) -> xr.Dataset:
    """Shares of wrong answers by class, the last group without any."""
    shares = np.random.default_rng(6).dirichlet(np.ones(len(FATES)), (1, len(groups)))
    mean = xr.DataArray(shares, dims=["null", "group", "fate"], coords={"null": ["distractor"], "group": list(groups), "fate": list(FATES)})
    result = summary(mean, spread=0.2).rename(mean="share").drop_vars("n")
    n = np.full((1, len(groups)), 40)
    n[0, -1] = 0
    expected = (("null", "group", "step"), np.full((1, len(groups), 3), 0.08))
    return result.assign(n=(("null", "group"), n), expected=expected).assign_coords(step=["seen", "readable", "carried"])


def shared(rows: Sequence[str], expected: bool = True) -> xr.Dataset:
    """Shares, the last without anybody; right and wrong answers in turn."""
    values = np.random.default_rng(7).random(len(rows))
    values[-1] = np.nan if len(rows) > 1 else values[-1]
    result = summary(xr.DataArray(values, dims="row", coords={"row": list(rows)}))
    result = result.assign_coords(group=("row", [("correct", "wrong", "all")[k % 3] for k in range(len(rows))]))
    return result.assign(expected=("row", values[::-1].copy())) if expected else result


def tested(rows: Sequence[str], groups: Sequence[str] = (), p: bool = True) -> xr.Dataset:
    """Effects of both signs, the last one unknown where there are several."""
    values = np.random.default_rng(8).normal(0, 0.1, len(rows))
    values[-1] = np.nan if len(rows) > 1 else values[-1]
    result = summary(xr.DataArray(values, dims="row", coords={"row": list(rows)}), spread=0.4)
    result = result.assign_coords(group=("row", list(groups))) if groups else result
    return result.assign(p=("row", np.where(np.isnan(values), np.nan, np.abs(values)))) if p else result


def turned(names: Sequence[str], levels: Sequence[str]) -> xr.Dataset:
    """Scores that fall level by level."""
    values = np.linspace(0.7, 0.2, len(levels))[:, None] * np.linspace(0.8, 1.1, len(names))
    return summary(xr.DataArray(values, dims=["level", "method"], coords={"level": list(levels), "method": list(names)}), n=200)


def examples(n: int, stretch: tuple[float, float] = (1, 1), text: Sequence[str] = ("What is it?", "Answer: nine", "Reference: 7")) -> Any:
    """So many examples of a synthetic trace, in two shapes."""
    panels = []
    for k in range(n):
        panel = Example(*traced(number=k % 2, stretch=stretch if k % 2 else (1, 1)), [3, 4, 5], "hallucination", text)
        panels.append(panel)
    return gallery(panels, "Examples", "Chosen by nobody.", "Of 40")


def staged(sample: xr.Dataset, image: Image.Image) -> Any:
    """Four stages of a round map, the first with a strip without tokens."""
    y, x = np.mgrid[0 : image.height, 0 : image.width]
    values = np.exp(-(((x / image.width - 0.4) / 0.2) ** 2) - ((y / image.height - 0.4) / 0.2) ** 2)
    stages = {f"{k} stage": xr.DataArray(values ** (k / 2), dims=["y", "x"]) for k in range(1, 5)}
    stages["1 stage"][:, : max(1, image.width // 12)] = np.nan
    return method_stages(sample, image, stages, image)


def stable(n_layers: int) -> tuple[xr.Dataset, xr.Dataset]:
    """A profile whose best layers stand out, and how many samples find them."""
    values = 0.6 + 0.3 * np.exp(-(((np.linspace(0, 1, n_layers) - 0.6) / 0.1) ** 2))
    mean = xr.DataArray(values, dims="layer", coords={"layer": np.arange(n_layers)})
    chosen = np.argsort(-values)[: -(-n_layers // 10)]
    profile = summary(mean).assign(selected=("layer", np.isin(np.arange(n_layers), chosen).astype(int)))
    overlap = xr.DataArray([0.4, 0.6, 0.8, 0.9, 0.95, 1.0], dims="count", coords={"count": [10, 20, 50, 100, 150, 200]})
    return profile, summary(overlap).assign(chance=("count", np.full(6, 0.1)))


def side_by_side(names: Sequence[str], without: str = "") -> go.Figure:
    """Planted numbers of so many models; without those whose quantity begins with `without`."""
    split = [f"AUROC of the profiled map, {group}" for group in ("correct", "wrong")]
    saw = [f"seen, wrong, {null}" for null in ("placed", "distractor")]
    gained = [f"{name} less inst" for name in METHODS[2:]]
    quantities = ["exact match, answerable", *split, *saw, *gained]
    values = np.random.default_rng(8).uniform(0.3, 0.9, (len(names), len(quantities)))
    values[:, -len(gained) :] -= 0.6
    mean = xr.DataArray(values, dims=["model", "quantity"], coords={"model": list(names), "quantity": quantities})
    if without:
        mean = mean.where([not quantity.startswith(without) for quantity in quantities] * xr.ones_like(mean, bool))
    expected = 0.5 * mean.where(mean["quantity"].isin(saw))
    n = json.dumps(dict.fromkeys(names, 500))
    table = summary(mean).assign(expected=expected)
    half = xr.DataArray([-0.06, 0.06], dims="ci_bound", coords={"ci_bound": table["ci_bound"]})
    table["interval"] = (mean + half).assign_attrs(table["interval"].attrs)
    return across_models(table.assign_attrs(model=", ".join(names), n=n, seed=0, note="Of small models."))


def _of_analysis(name: str) -> go.Figure:
    """A figure of results that the analysis itself made."""
    ds, asked = traces(n=24), answers()
    auroc, pictures = grounding(ds, level="head")["auroc"], ds["image_id"]
    match name:
        case "shift":
            return attention_shift(mean_interval(rapt(ds), pictures).assign_attrs(ds.attrs))
        case "correctness":
            return evidence_by_correctness(by_correctness(rapt(ds), ds, n_permutations=20))
        case "heads":
            return head_grounding(mean_interval(auroc, pictures).assign_attrs(ds.attrs), profile_layers(ds))
        case "methods":
            scored = mean_interval(asked["exact_match"], pictures).assign_attrs(asked.attrs)
            return methods(scored, compare(asked), compare(asked, against="inst"))
        case _:
            quality = auroc.isel(layer=-1).mean("head")
            result = by_grounding_quality(asked["exact_match"], quality, pictures).assign_attrs(asked.attrs)
            effect = asked["exact_match"].loc["vea"] - asked["exact_match"].loc["inst"]
            return accuracy_by_quality(result, by_grounding_quality(effect.rename("vea minus inst"), quality, pictures))


FIGURES: dict[str, Callable[[], Any]] = {
    "shift": lambda: attention_shift(shift(8)),
    "shift-64-layers": lambda: attention_shift(shift(64)),
    "shift-sliding": lambda: attention_shift(shift(48, every=6)),
    "correctness": lambda: evidence_by_correctness(correctness(8)),
    "correctness-64-layers": lambda: evidence_by_correctness(correctness(64)),
    "correctness-sliding": lambda: evidence_by_correctness(correctness(48, every=6)),
    "correctness-all-right": lambda: evidence_by_correctness(all_right()),
    "heads": lambda: head_grounding(*heads(8, 8)),
    "heads-28": lambda: head_grounding(*heads(28, 28)),
    "heads-64": lambda: head_grounding(*heads(64, 64)),
    "heads-sliding": lambda: head_grounding(heads(48, 16, every=6)[0]),
    "methods": lambda: _methods(METHODS),
    "methods-long-names": lambda: _methods(LONG),
    "methods-one": lambda: _methods(["base"]),
    "quality": lambda: accuracy_by_quality(binned()),
    "quality-methods": lambda: accuracy_by_quality(binned(METHODS)),
    "quality-many-methods": lambda: accuracy_by_quality(binned(LONG)),
    "quality-effect": lambda: accuracy_by_quality(binned(METHODS[:3]), _effect()),
    "maps": lambda: layer_maps(*traced()),
    "maps-28-layers": lambda: layer_maps(*traced(28)),
    "maps-tall": lambda: layer_maps(*traced(28, stretch=(1, 6))),
    "maps-wide": lambda: layer_maps(*traced(28, stretch=(6, 1))),
    "maps-markup": lambda: layer_maps(live(traced()[0]), traced()[1]),
    "over": lambda: attention_over_image(*traced()),
    "over-one": lambda: attention_over_image(*traced(), layers=[5]),
    "before-after": lambda: highlighted(*traced()),
    "before-after-tall": lambda: highlighted(*traced(stretch=(1, 8))),
    "before-after-wide": lambda: highlighted(*traced(stretch=(8, 1))),
    "before-after-markup": lambda: highlighted(
        live(traced()[0]), traced()[1], before="The <i>answer</i> $x$ " + "is long " * 30, after="W" * 90
    ),
    "mass": lambda: mass_by_layer(segment_mass(traces(n=3)).assign_attrs(PROVENANCE)),
    "disconnect": lambda: disconnect_table(judged()),
    "disconnect-unread": lambda: disconnect_table(judged(readable=False)),
    "disconnect-one-null": lambda: disconnect_table(judged(null="placed")),
    "disconnect-unheld": lambda: disconnect_table(unheld(judged())),
    "effects": lambda: head_effects(effects(8, 8)),
    "effects-28": lambda: head_effects(effects(28, 28), unit="nats"),
    "effects-64": lambda: head_effects(effects(64, 64)),
    "knockout": lambda: knockout_curves(knocked(8)),
    "knockout-64-layers": lambda: knockout_curves(knocked(64)),
    "knockout-all-right": lambda: knockout_curves(knocked(8, wrong=False)),
    "patching": lambda: patching_map(recovered(8, "group", ["evidence", "other image", "question", "last", "all"])),
    "patching-64-layers": lambda: patching_map(recovered(64, "group", ["evidence", "last"])),
    "patching-heads": lambda: patching_map(recovered(28, "head", range(28))),
    "look": lambda: look_and_write(properties(8, 8)),
    "look-32": lambda: look_and_write(properties(32, 32)),
    "fates": lambda: fate_shares(lost(["all", "congruent", "neutral", "conflict", "nobody"])),
    "fates-one": lambda: fate_shares(lost(["all", "nobody"])),
    "shares": lambda: shares(shared([f"question-first, distractor: row {k}" for k in range(20)]), "Shares", "As planted."),
    "shares-one": lambda: shares(shared(["all"], expected=False), "Shares", "As planted.", (0.0142, 0.0734, "the paper's range")),
    "shares-long-names": lambda: shares(shared(["a row with a name that is <b>much</b> too long for any page of ours"] * 2), "Shares", ""),
    "rows": lambda: effect_rows(tested(["one", "two", "three"], ["a", "a", "b"]), "Effects", "As planted.", "difference"),
    "rows-many": lambda: effect_rows(
        tested([f"row {k}" for k in range(24)], [f"group {k // 4}" for k in range(24)]), "Effects", "", "difference"
    ),
    "rows-one": lambda: effect_rows(tested(["a row with a <b>name</b> of $5$ that is long " * 3], p=False), "E", "", "average rank", None),
    "levels": lambda: by_level({"noise": turned(METHODS[:4], ["0 %", "20 %", "40 %", "60 %"])}, "Levels", "As planted.", "exact match"),
    "levels-three": lambda: by_level(
        {f"<b>thing</b> {k} with a long name of $5$": turned(METHODS, ["1", "1/2", "1/4"][: 3 - k // 2]) for k in range(3)},
        "L",
        "",
        "EM",
        0.0,
    ),
    "gallery": lambda: examples(9, stretch=(2, 1)),
    "gallery-one": lambda: examples(1),
    "gallery-tall": lambda: examples(5, stretch=(1, 4)),
    "gallery-markup": lambda: examples(3, text=["What <b>is</b> $5$ &amp; " + "long " * 20, "Answer: " + "W" * 60]),
    "stages": lambda: staged(*traced()),
    "stages-tall": lambda: staged(*traced(stretch=(1, 6))),
    "stages-wide": lambda: staged(*traced(stretch=(6, 1))),
    "models": lambda: curves_by_model({"demo/llava": shift(8)}, "By model"),
    "models-seven": lambda: curves_by_model({f"demo/a-model-of-name-{k}": correctness(8 + k) for k in range(7)}, "By model", EVIDENCE),
    "across": lambda: side_by_side([f"demo/model-{k}" for k in range(7)]),
    "across-one": lambda: side_by_side(["demo/llava"]),
    "across-long-names": lambda: side_by_side(
        [f"a-model-of-a-very-long-<b>name</b>/of-family-number-{k}-at-72B-parameters" for k in range(9)]
    ),
    "across-unprofiled": lambda: side_by_side(["demo/llava", "another"], without="seen"),
    "stability": lambda: profile_stability(*stable(8)),
    "stability-64-layers": lambda: profile_stability(*stable(64)),
    **{f"analysis-{name}": partial(_of_analysis, name) for name in ("shift", "correctness", "heads", "methods", "quality")},
}
