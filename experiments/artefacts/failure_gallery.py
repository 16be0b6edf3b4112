"""Fig. 2: wrong answers by how they fail, counted, with examples and where the late layers looked."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import xarray as xr

from experiments.artefacts.context import Context
from experiments.artefacts.interface import NONE_SEEN, Artefact, Result
from experiments.artefacts.words import cells, share
from interp import plots
from interp.analysis import FAILURE_KINDS, FAILURES, failures, mean_interval
from interp.analysis import seen as judge_seen
from interp.errors import InterpError

_EACH = 3  # examples of each class

RULES = (
    "Rules, the first that fits: false rejection, the abstention sentence though the picture holds the answer; hallucination, what a prior "
    "says, another candidate's text, or no word of a reference; partially correct, some words of a reference but not exactly these."
)


def compute(context: Context) -> Result:
    """Classes over the wrong answers whose evidence is visible, and of those whose evidence is seen."""
    ds = context.trace()
    judged, kinds = ds.isel(sample=_visible(ds)), failures(ds)
    invented = int((kinds["kind"].values.astype(object) == "invented").sum())
    if judged.sizes["sample"] == 0:
        raise InterpError("No sample shows its evidence to the model, so no failure can be told from blindness; trace other samples.")
    found = failures(judged)
    wrong = found["failure"].values.astype(object) != ""
    if not wrong.any():
        raise InterpError("No answer to a question with visible evidence is wrong, so there is no failure to show; take more samples.")
    verdict = judge_seen(judged, context.profile(), seed=context.seed)
    of_wrong = judged.isel(sample=np.flatnonzero(wrong))
    pictures = xr.DataArray(of_wrong["image_id"].values.astype(object), dims="sample", name="image_id")
    of_class = _members(found["failure"], wrong, FAILURES, "failure")
    of_kind = _members(found["kind"], wrong, tuple(kind for kind in FAILURE_KINDS if kind != "invented"), "kind")
    shares, by_kind = (mean_interval(each, pictures, seed=context.seed) for each in (of_class, of_kind))
    saw = verdict["seen"].isel(sample=np.flatnonzero(wrong))
    seen_too = mean_interval(saw.drop_vars(saw.coords).assign_coords(null=saw["null"]).where(of_class == 1), pictures, seed=context.seed)
    rows = [
        {"class": name, "count": int((of_class.sel(failure=name) == 1).sum()), **_named(cells(shares.sel(failure=name)), "share of wrong")}
        | {f"seen against {null} boxes": float(seen_too["mean"].sel(failure=name, null=null)) for null in saw["null"].values}
        for name in FAILURES
    ]
    rows += [
        {
            "class": f"kind: {name}",
            "count": int((of_kind.sel(kind=name) == 1).sum()),
            **_named(cells(by_kind.sel(kind=name)), "share of wrong"),
        }
        for name in by_kind["kind"].values
    ]
    rows.append({"class": "apart: answer to a question the picture does not answer", "count": invented})
    n = int(wrong.sum())
    n_pictures = len(set(pictures.values))
    words = ", ".join(f"{name} {share(shares.sel(failure=name), n_pictures)}" for name in FAILURES)
    lacking = [name for name in FAILURES if not (of_class.sel(failure=name) == 1).any()]
    sentence = f"Of {n} wrong answers to questions with visible evidence: {words}; answers where no evidence is, counted apart: {invented}."
    sentence += f" No example of {' or '.join(lacking)}." if lacking else ""
    text = f"The mean of the later half of the layers. First examples of each class, those whose evidence was seen first. {RULES}"
    examples = _examples(context, judged, found, verdict)
    figure = plots.gallery(examples, "Wrong answers by how they fail", text, f"Of {n} wrong answers.")
    data = xr.Dataset(
        {
            **{name: shares[name] for name in ("mean", "interval", "n")},
            **{f"kind_{name}": by_kind[name] for name in ("mean", "interval")},
            **{f"seen_{name}": seen_too[name] for name in ("mean", "interval", "n")},
        },
        attrs=ds.attrs,
    ).assign({f"sample_{name}": ("judged", found[name].values) for name in ("failure", "kind")})
    return Result(
        pd.DataFrame(rows),
        figure,
        data,
        sentence,
        apart="The paper shows examples and no counts, so none stand beside these.",
        n=n,
        intervals=NONE_SEEN,
    )


def _visible(ds: xr.Dataset) -> np.ndarray:
    absent = ds["knob_absent"].values.astype(bool) if "knob_absent" in ds.variables else np.zeros(ds.sizes["sample"], dtype=bool)
    return np.flatnonzero((ds["visibility"].values.astype(object) == "visible") & ~absent)


def _members(names: xr.DataArray, wrong: np.ndarray, classes: tuple[str, ...], dim: str) -> xr.DataArray:
    """1 or 0 (sample, class) over the wrong answers."""
    table = names.values.astype(object)[wrong][:, None] == np.array(classes, dtype=object)
    return xr.DataArray(table.astype(float), dims=("sample", dim), coords={dim: list(classes)})


def _named(values: dict[str, float], name: str) -> dict[str, float]:
    return {name: values["mean"], "lower": values["lower"], "upper": values["upper"]}


def _examples(context: Context, judged: xr.Dataset, found: xr.Dataset, verdict: xr.Dataset) -> list[plots.Example]:
    """The first of each class, those whose evidence was seen against both nulls before the others."""
    layers = judged["layer"].values
    late = [int(layer) for layer in layers[len(layers) // 2 :]]
    place = {sample.id: k for k, sample in enumerate(context.samples())}
    saw = np.nan_to_num(verdict["seen"].values).sum(axis=1)
    examples = []
    for name in FAILURES:
        mine = np.flatnonzero(found["failure"].values.astype(object) == name)
        for k in mine[np.argsort(-saw[mine], kind="stable")][:_EACH]:
            sample = judged.isel(sample=int(k)).load()
            picture = context.samples()[place[str(sample["sample"].item())]].open_images()[0]
            said = [str(sample["question"].item()), f"Answer: {sample['prediction'].item()!s}", f"Reference: {_reference(sample)}"]
            examples.append(plots.Example(sample, picture, late, name, said))
    return examples


def _reference(sample: xr.Dataset) -> str:
    return " / ".join(json.loads(str(sample["references"].item())))


ARTEFACT = Artefact(
    "fig2",
    "Failure cases with their attention (paper, Fig. 2)",
    "How do answers fail although the evidence is there: by refusing, by inventing, or by getting a part of it?",
    compute,
)
