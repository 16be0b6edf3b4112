"""What an organism can do, measured: answers by knob, wording and prompt order, the paper's failures, and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr

from interp import prompts
from interp.analysis import Profile, auroc, mean_interval, profile_layers, segment_mass
from interp.analysis import failures as kinds_of_failure
from interp.analysis.auroc import auroc_kernel, evidence_labels
from interp.answers import exact_match
from interp.benchmarks import load_benchmark
from interp.benchmarks.sample import Sample
from interp.capture import trace
from interp.vlm import VLM

Figures = dict[str, Any]
EvaluationSplit = Literal["validation", "test"]
ORDERS: tuple[prompts.PromptOrder, ...] = ("image-first", "question-first")
_FORMS_N = 200  # prompt forms are compared on the first so many samples: some are answered one at a time
_THIRDS = ("card_size", "contrast", "noise")


def assess(
    vlm_of: Callable[[prompts.PromptOrder], VLM], split: EvaluationSplit, *, limit: int | None = None, batch_size: int = 32
) -> Figures:
    """Every figure of a model card: for both prompt orders on `split`, with layers profiled on the `profile` split.

    `vlm_of` gives the model in a prompt order. Shares come as ``{"mean", "lower", "upper", "n"}``, 95 % bootstrap over scenes.
    """
    bench = load_benchmark("digits", split=split, limit=limit)
    fitting = load_benchmark("digits", split="profile", limit=limit)
    orders: Figures = {}
    for order in ORDERS:
        vlm = vlm_of(order)
        profile = profile_layers(trace(vlm, fitting, batch_size=batch_size))
        ds = trace(vlm, bench, batch_size=batch_size, queries="question" if order == "image-first" else None)
        orders[order] = {"answers": answer_figures(ds), "grounding": grounding_figures(ds, profile), "failures": failure_figures(ds)}
    forms = form_figures(vlm_of("image-first"), bench[:_FORMS_N], batch_size)
    return {"split": split, "n": len(bench), "orders": orders, "forms": forms}


def share(values: xr.DataArray, clusters: xr.DataArray) -> Figures:
    """Mean, 95 % interval over scenes, and n; None for what too few samples leave undefined."""
    if values.sizes["sample"] == 0:
        return {"mean": None, "lower": None, "upper": None, "n": 0}
    result = mean_interval(values.astype(float), clusters)
    lower, upper = (_known(v) for v in result["interval"])
    return {"mean": _known(result["mean"]), "lower": lower, "upper": upper, "n": int(result["n"])}


def _known(value: Any) -> float | None:
    """None for what is undefined: JSON knows no NaN."""
    return None if np.isnan(value) else float(value)


def _rounded(values: Any) -> list[float | None]:
    """Figures by layer, None for a layer that has none."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def answer_figures(ds: xr.Dataset) -> Figures:
    """Exact match overall and along each knob; absent samples are apart."""
    correct, scene = ds["exact_match"], ds["image_id"]
    answerable = ~ds["knob_absent"]

    def where(keep: xr.DataArray) -> Figures:
        return share(correct[keep.values], scene[keep.values])

    figures: Figures = {
        "answerable": where(answerable),
        "absent": where(ds["knob_absent"]),
        "visibility": {
            str(v): where(answerable & (ds["visibility"] == v)) for v in sorted(set(ds["visibility"].values.astype(object)) - {"none"})
        },
        "kind": {kind: where(ds["knob_kind"] == kind) for kind in ("plain", "relation", "absent")},
        "arm": {arm: where(ds["knob_arm"] == arm) for arm in ("congruent", "neutral", "conflict")},
        "digits": {str(n): where(ds["knob_n_digits"] == n) for n in (1, 2, 3)},
        "cards": {str(n): where(answerable & (ds["knob_n_cards"] == n)) for n in range(2, 6)},
    }
    for knob in _THIRDS:
        values = ds[f"knob_{knob}"]
        edges = np.quantile(values[answerable], [0, 1 / 3, 2 / 3, 1])
        thirds = zip(edges[:-1], edges[1:], (True, False, False), strict=True)
        figures[knob] = {
            f"{low:.3g} to {high:.3g}": where(answerable & ((values >= low) if first else (values > low)) & (values <= high))
            for low, high, first in thirds
        }
    arms = {arm: ds["knob_arm"] == arm for arm in ("neutral", "conflict")}
    said_prior = xr.zeros_like(correct)
    # The prior digit in question is the conflict colour's; the neutral arm of the same scene is asked against the same digit.
    conflict_digit = dict(zip(scene[arms["conflict"].values].values, ds["knob_prior_digit"][arms["conflict"].values].values, strict=True))
    for k, (name, prediction) in enumerate(zip(scene.values, ds["prediction"].values, strict=True)):
        said_prior[k] = float(str(prediction) == str(conflict_digit.get(name, "")))
    figures["prior digit said"] = {arm: share(said_prior[keep.values], scene[keep.values]) for arm, keep in arms.items()}
    paired = [
        correct[arms[arm].values].assign_coords(sample=scene[arms[arm].values].values.astype(object)) for arm in ("conflict", "neutral")
    ]
    # not np.intersect1d: numpy 2.4 crashes in it on variable-width strings
    shared = sorted(set(paired[0]["sample"].values.tolist()) & set(paired[1]["sample"].values.tolist()))
    difference = paired[0].sel(sample=shared) - paired[1].sel(sample=shared)
    figures["conflict minus neutral"] = share(difference, difference["sample"].rename("image_id"))
    return figures


def failure_figures(ds: xr.Dataset) -> Figures:
    """Wrong answers by kind of question and by what was said, as counts, on samples whose evidence is visible (and absent ones).

    What was said, the first that fits: false rejection (the abstention sentence though the card is there), an answer though it is not,
    the prior's digit, what another card shows, partially correct (some of the reference's words, not all, or others besides), other
    digits (misread). Of the paper's failures (A.4) hallucination is the prior's digit, another card's and other digits together.
    """
    judged = ds.isel(sample=np.flatnonzero((ds["visibility"] == "visible").values | ds["knob_absent"].values))
    wrong = judged["exact_match"].values == 0
    kinds = np.where(judged["knob_arm"].values == "", judged["knob_kind"].values, judged["knob_arm"].values).astype(object)
    said = np.array([_SAID.get(str(kind), "") for kind in kinds_of_failure(judged)["kind"].values], dtype=object)
    used = wrong & np.isin(kinds, ["conflict", "relation", "absent"])
    return {
        "n": len(wrong),
        "wrong": int(wrong.sum()),
        "by kind": {kind: {"wrong": int((wrong & (kinds == kind)).sum()), "n": int((kinds == kind).sum())} for kind in sorted(set(kinds))},
        "share of the wrong from conflict, relation and absent": float(used.sum() / max(1, wrong.sum())),
        "share of all from conflict, relation and absent": float(np.isin(kinds, ["conflict", "relation", "absent"]).mean()),
        "said": {what: int((wrong & (said == what)).sum()) for what in _SAID.values()},
    }


_SAID = {
    "false rejection": "false rejection",
    "invented": "answer though absent",
    "prior": "prior digit",
    "another candidate": "another card",
    "partially correct": "partially correct",
    "unsupported": "other digits",
}


def grounding_figures(ds: xr.Dataset, profile: Profile) -> Figures:
    """Where the last prompt token looks, on samples whose evidence is visible, split by strict correctness."""
    visible = ds.isel(sample=np.flatnonzero((ds["visibility"] == "visible").values & ~ds["knob_absent"].values))
    by_layer = auroc(visible["attention"].mean("head"), visible["coverage"])
    profiled = auroc(visible["attention"].sel(layer=list(profile.layers)).mean(["layer", "head"]), visible["coverage"])
    correct = (visible["exact_match"] == 1).values
    mass = segment_mass(visible, "image").mean("head")
    figures: Figures = {
        "profile": {"layers": list(profile.layers), "auroc": _rounded(profile.auroc), "n": len(profile.sample_ids) - profile.n_undefined},
        "n_undefined": int(by_layer.attrs["n_undefined"]),
        "image mass by layer": _rounded(mass.mean("sample")),
    }
    for name, keep in (("correct", correct), ("wrong", ~correct)):
        scenes = visible["image_id"][keep]
        figures[name] = {
            "auroc of profiled map": share(profiled[keep], scenes),
            "mean auroc of profiled layers": share(by_layer.sel(layer=list(profile.layers)).mean("layer")[keep], scenes),
            "auroc by layer": _rounded(by_layer[keep].mean("sample")),
        }
    if "attention_rows" in visible:
        figures["question rows"] = _question_rows(visible)
    return figures


def _question_rows(ds: xr.Dataset) -> Figures:
    """AUROC by layer of the best question token: the mean over samples of the largest AUROC among a question's tokens, beside its mean."""
    labels = evidence_labels(ds["coverage"]).values[:, None, None, :]
    rows = ds["attention_rows"].mean("head").transpose("sample", "layer", "query", "key").values[..., : labels.shape[-1]]
    scores = auroc_kernel(rows, labels)
    scores[np.isnan(rows).all(axis=-1)] = np.nan
    inside = labels >= 0
    mass = np.nansum(np.where(inside, rows, 0.0), axis=-1)
    mass[np.isnan(rows).all(axis=-1)] = np.nan
    kept = ~np.isnan(scores).all(axis=(1, 2))
    return {
        "mean auroc by layer": _rounded(_nanmean(scores[kept], "sample", "query")),
        "mean of best token by layer": _rounded(_nanmean(np.fmax.reduce(scores[kept], axis=2), "sample")),
        "image mass by layer": _rounded(_nanmean(mass[kept], "sample", "query")),
    }


def _nanmean(values: np.ndarray, *dims: str) -> xr.DataArray:
    """Mean of (sample, layer[, query]) over `dims` of what is not NaN; NaN, without a warning, where nothing is."""
    return xr.DataArray(values, dims=("sample", "layer", "query")[: values.ndim]).mean(dims)


def form_figures(vlm: VLM, bench: Any, batch_size: int) -> Figures:
    """Exact match of answerable and of absent samples by prompt form; each form is asked of the same samples, pictures first."""
    base = _ask(vlm, bench, batch_size, "base")
    described = _ask(vlm, bench, batch_size, "describe", max_new_tokens=64)
    extracted = _ask(vlm, bench, batch_size, "extract", max_new_tokens=64)
    informed = prompts.PROMPTS["informed"]
    predictions: Mapping[str, list[str]] = {
        "base": base,
        "vea": _ask(vlm, bench, batch_size, "vea"),
        "question": _ask(vlm, bench, batch_size, "question"),
        "informed by own extraction": [
            str(vlm.generate(sample, informed.replace("{information}", text))) for sample, text in zip(bench, extracted, strict=True)
        ],
        "second turn, asked again": [
            str(vlm.generate(sample, "base", history=[(prompts.word("base", sample.question).text, said)]))
            for sample, said in zip(bench, base, strict=True)
        ],
        "picture twice": _ask(vlm, [_twice(sample) for sample in bench], batch_size, "base"),
    }
    figures: Figures = {}
    scene = xr.DataArray([sample.image_id for sample in bench], dims="sample", name="image_id")
    absent = np.array([bool(sample.knobs["absent"]) for sample in bench])
    for form, said in predictions.items():
        correct = xr.DataArray([exact_match(p, s.references) for p, s in zip(said, bench, strict=True)], dims="sample")
        figures[form] = {"answerable": share(correct[~absent], scene[~absent]), "absent": share(correct[absent], scene[absent])}
    for form, said in (("describe", described), ("extract", extracted)):
        hits = [_named(text, sample) for text, sample in zip(said, bench, strict=True)]
        figures[form] = {"asked card described": share(xr.DataArray(hits, dims="sample")[~absent], scene[~absent])}
    return figures


def _ask(vlm: VLM, bench: Any, batch_size: int, prompt: str, max_new_tokens: int = 16) -> list[str]:
    said: list[str] = []
    for start in range(0, len(bench), batch_size):
        said += vlm.generate([bench[k] for k in range(start, min(start + batch_size, len(bench)))], prompt, max_new_tokens=max_new_tokens)
    return said


def _named(description: str, sample: Sample) -> float:
    """Whether a description such as ``red 4 7, blue 3.`` says of the asked card what is written on it."""
    parts = [part.strip() for part in description.rstrip(". ").split(",")]
    return float(f"{sample.knobs['colour']} {sample.references[0]}" in parts)


def _twice(sample: Sample) -> Sample:
    picture = sample.images[0]
    return Sample(
        sample.id,
        [picture, picture],
        sample.question,
        sample.references,
        sample.regions,
        image_id=sample.image_id,
        dataset=sample.dataset,
        split=sample.split,
        knobs=sample.knobs,
    )
