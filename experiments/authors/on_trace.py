"""What faults do to the numbers that a trace is summed up in: the question's share, the chosen layers, a mean of ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.analysis import Profile, auroc, cluster_bootstrap, mean_interval, profiled_map, rapt


def study(ds: xr.Dataset, profile: Profile, judged: Profile) -> pd.DataFrame:
    """One row per fault: the number as it should be, as theirs would be, and the difference with its interval over pictures."""
    images = xr.DataArray(ds["image_id"].values.astype(object), dims="sample", name="image_id")
    return pd.DataFrame([_question(ds, images), _layers(ds, profile, judged, images), _ratios(ds, profile, images)])


def _question(ds: xr.Dataset, images: xr.DataArray) -> dict[str, Any]:
    """RAPT of the question, and of all text after the picture."""
    attention = ds["attention"].mean("head").values
    inside, image = ds["segment"].values >= 0, ds["image_index"].values >= 0
    last = image.shape[1] - 1 - np.argmax(image[:, ::-1], axis=1)
    after = inside & (np.arange(image.shape[1]) > last[:, None])

    def mean(members: np.ndarray) -> np.ndarray:
        return np.nansum(attention * members[:, None], axis=2) / members.sum(axis=1)[:, None]

    exact = rapt(ds).sel(section="question").mean("layer").values
    theirs = (mean(after) / mean(inside)).mean(axis=1)
    return _row("question span", "RAPT of the question, mean over layers", exact, theirs, images)


def _layers(ds: xr.Dataset, profile: Profile, judged: Profile, images: xr.DataArray) -> dict[str, Any]:
    honest, flattered = (auroc(profiled_map(ds, each), ds["coverage"], each.rule).values for each in (profile, judged))
    what = f"AUROC of the profiled map, layers {list(profile.layers)} and, from the judged samples, {list(judged.layers)}"
    return _row("profiling", what, honest, flattered, images)


def _ratios(ds: xr.Dataset, profile: Profile, images: xr.DataArray) -> dict[str, Any]:
    """Evidence RAPT over non-evidence RAPT."""
    layers = list(profile.layers)
    evidence, others = (rapt(ds).sel(section=name, layer=layers).mean("layer").values for name in ("evidence", "non-evidence"))
    ratio = np.where(others > 0, evidence / np.where(others > 0, others, 1), np.nan)
    values = np.stack([ratio, evidence, others], axis=1)
    draws = cluster_bootstrap(values, images.values)
    spread = draws[:, 0] - draws[:, 1] / draws[:, 2]
    lower, upper = np.quantile(spread, [0.025, 0.975])
    means = np.nanmean(values, axis=0)
    found = {"corrected": means[1] / means[2], "theirs": means[0], "difference": means[0] - means[1] / means[2]}
    number = {"n": int(np.isfinite(ratio).sum())}
    what = "evidence over non-evidence RAPT: ratio of means, and mean of ratios"
    return {"fault": "statistics", "measure": what, **found, "lower": lower, "upper": upper, **number}


def _row(fault: str, measure: str, exact: np.ndarray, theirs: np.ndarray, images: xr.DataArray) -> dict[str, Any]:
    found = mean_interval(xr.DataArray(theirs - exact, dims="sample"), images)
    both = np.isfinite(exact) & np.isfinite(theirs)
    lower, upper = found["interval"].values
    means = {"corrected": exact[both].mean(), "theirs": theirs[both].mean(), "difference": float(found["mean"])}
    return {"fault": fault, "measure": measure, **means, "lower": lower, "upper": upper, "n": int(found["n"])}
