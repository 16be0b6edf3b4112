"""What faults do to maps and to the highlighted pictures, and whether the package's two variants are the equations written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

import interp
from experiments.authors import equations
from experiments.authors.equations import Faults, Floats
from experiments.authors.pictures import Painter, pixels
from interp.analysis import Profile, auroc, compare, mean_interval
from interp.interventions import evidence_map, highlight

CASES: dict[str, Faults] = {**{name: frozenset({name}) for name in sorted(equations.ALL)}, "all of them": equations.ALL}


@dataclass(frozen=True)
class Agreement:
    """Greatest difference in grey levels from the package's variants ``authors`` and ``interp``, over `n` pictures."""

    authors: int
    interp: int
    n: int


def study(bench: Sequence[interp.Sample], ds: xr.Dataset, profile: Profile, judged: Profile) -> tuple[pd.DataFrame, Agreement]:
    """One row per fault: what differs from the corrected equations, with intervals over pictures.

    `judged` is the profile fitted on these very samples (the fault `profiling`).
    """
    painter = Painter()
    changed, levels, quality, gains = (np.full((len(CASES) + 1, len(bench)), np.nan) for _ in range(4))
    worst = {"authors": 0, "interp": 0}
    names = [*CASES, "profiling"]
    for k, sample in enumerate(bench):
        one, picture = ds.isel(sample=k), sample.open_images()[0]
        evidence = _mask(sample, picture)
        corrected = painter.map(sample.id, one, profile.layers, picture.size, equations.NONE)
        plain = equations.shown(pixels(picture), corrected)
        best = _auroc(corrected, evidence)
        for case, name in enumerate(names):
            faults, layers = CASES.get(name, equations.NONE), judged.layers if name == "profiling" else profile.layers
            found = painter.map(sample.id, one, layers, picture.size, faults)
            shown = equations.shown(pixels(picture), found, faults=faults)
            off = np.abs(shown.astype(int) - plain)
            changed[case, k], levels[case, k] = off.any(), off.mean()
            quality[case, k] = 0.0 if found is corrected else _auroc(found, evidence) - best
            dimmer = 0.5 * (np.nan_to_num(found, nan=1) - np.nan_to_num(corrected, nan=1))[evidence]  # alpha is a half
            gains[case, k] = dimmer.mean() if evidence.any() else np.nan
            if name == "all of them":
                worst["authors"] = max(worst["authors"], _off(shown, picture, one, profile, "authors"))
        worst["interp"] = max(worst["interp"], _off(plain, picture, one, profile, "interp"))
    images = xr.DataArray(ds["image_id"].values.astype(object), dims="sample", name="image_id")
    return _table(names, {"changed": changed, "grey_levels": levels, "gain_on_evidence": gains}, quality, images), Agreement(
        worst["authors"], worst["interp"], len(bench)
    )


def _mask(sample: interp.Sample, picture: Image.Image) -> np.ndarray:
    """(y, x): pixels whose centre is in a box of evidence."""
    ys, xs = np.arange(picture.height)[:, None] + 0.5, np.arange(picture.width)[None, :] + 0.5
    inside = np.zeros((picture.height, picture.width), dtype=bool)
    for x0, y0, x1, y1 in (region.box for region in sample.evidence):
        inside |= (x0 <= xs) & (xs < x1) & (y0 <= ys) & (ys < y1)
    return inside


def _auroc(map_: Floats, evidence: np.ndarray) -> float:
    """Of the pixels that the model sees; NaN where one class is missing."""
    seen = ~np.isnan(map_)
    if not 0 < (seen & evidence).sum() < seen.sum():
        return float("nan")
    return float(auroc(xr.DataArray(map_.ravel(), dims="token"), xr.DataArray(np.where(seen, evidence, np.nan).ravel(), dims="token")))


def _off(shown: np.ndarray, picture: Image.Image, one: xr.Dataset, profile: Profile, variant: str) -> int:
    theirs = highlight(picture, evidence_map(one, profile, variant=variant), variant=variant)
    return int(np.abs(shown.astype(int) - pixels(theirs)).max())


def _table(names: list[str], measures: dict[str, np.ndarray], quality: np.ndarray, images: xr.DataArray) -> pd.DataFrame:
    made = pd.DataFrame({"fault": names})
    for name, values in measures.items():
        found = mean_interval(xr.DataArray(values, dims=("fault", "sample")), images)
        made[name] = found["mean"].values
        made[f"{name}_lower"], made[f"{name}_upper"] = found["interval"].transpose("ci_bound", "fault").values
    return made.merge(paired(names, quality, images, "auroc"), on="fault")


def paired(names: Sequence[str], gained: np.ndarray, images: xr.DataArray, score: str) -> pd.DataFrame:
    """Mean of `gained` (fault, sample), faulty less corrected, with interval and p-values over pictures; Holm over the faults."""
    both = np.concatenate([np.where(np.isnan(gained).all(axis=0), np.nan, 0.0)[None], gained])
    scores = xr.Dataset({score: (("method", "sample"), both)}, coords={"method": ["corrected", *names], "image_id": images})
    found = compare(scores, "corrected", score)
    lower, upper = found["interval"].transpose("ci_bound", "method").values
    columns = {"difference": found["difference"].values, "lower": lower, "upper": upper}
    columns |= {name: found[name].values for name in ("n", "wins", "losses", "p_permutation", "p_holm_permutation")}
    return pd.DataFrame({"fault": list(names), **{f"{score}_{name}": values for name, values in columns.items()}})
