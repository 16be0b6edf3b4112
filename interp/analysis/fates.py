"""Where the answer was lost: every wrong answer in one class, from not visible to carried and then overridden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.bootstrap import mean_interval
from interp.analysis.matching import positions, yes_or_no
from interp.analysis.profile import Profile
from interp.analysis.seen import NULLS, seen
from interp.errors import InterpError

FATES = ("not visible", "not seen", "seen but not readable", "readable, not carried", "carried, then overridden")
UNDEFINED = ("absent", "correctness undefined", "seen undefined", "readable undefined", "carried undefined")

_Floats = NDArray[np.float64]


def fates(
    ds: xr.Dataset,
    profile: Profile,
    probes: xr.Dataset,
    null: str | Sequence[str] = NULLS,
    correct: str | xr.DataArray = "exact_match",
    by: str | None = None,
    *,
    allow_overlap: bool = False,
    map: xr.DataArray | None = None,
    n_null: int = 200,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Every wrong answer in the first class that fits it.

    *Not visible*: the model's own preprocessing does not keep the evidence whole and large enough. *Not seen*: the profiled map does not
    rank it above the null's places. *Seen but not readable*: the probe does not read the answer off the evidence tokens, at the depth
    where that probe is most selective. *Readable, not carried*: nor does it off the last prompt token, at its own best depth. *Carried,
    then overridden*: it does, and the model said something else.

    Parameters
    ----------
    ds
        A trace with answers.
    profile
        The visual-grounding layers, fitted on other pictures.
    probes
        What `probe_layers` gave for these samples.
    null
        One or several of `NULLS`.
    correct
        Which answers are right: a score of the trace, or an array (sample,) of 1, 0 and NaN.
    by
        A coordinate (sample,) of the trace to split by as well, for example ``knob_arm``.
    allow_overlap
        Accept a profile fitted on these pictures; recorded.
    map
        The profiled map of the trace, where it is there already.
    n_null, level, n_resamples, seed
        As in `disconnect`.

    Returns
    -------
    xr.Dataset
        `fate_index` (null, sample), an index into `FATES`, -1 where the answer is right or a step is undefined; `share` and `interval`
        (ci_bound) over (null, group, fate), shares of the wrong answers that have a class; `count`, and `n` (null, group);
        `undefined` (null, reason), wrong answers without a class by the first reason. Group ``all`` comes first, then the values of `by`
        (``none`` where it is empty).
        `expected` (null, group, step): how often a step would be passed by chance on the same samples: seen, the rule's false-positive
        rate; readable and carried, the probe's control on distractors.

    Raises
    ------
    InterpError
        The profile does not fit (`Profile.check`), a sample is missing in `probes`, or `by` is no coordinate of the samples.
    """
    if by is not None and (by not in ds.coords or ds[by].dims != ("sample",)):
        raise InterpError(f"The trace has no coordinate {by!r} per sample to split by; use one such as dataset, or leave it out.")
    nulls = [null] if isinstance(null, str) else list(null)
    profile.check(ds.attrs, ds["image_id"].values.tolist(), allow_overlap=allow_overlap)
    verdict = seen(ds, profile, n_null=n_null, seed=seed, map=map)
    place = positions(ds, probes, "the trace", "`probes`")
    best = {site: probes["best_layer"].sel(site=site).item() for site in ("evidence", "last")}
    at = {site: probes.sel(site=site, layer=best[site]).isel(sample=place) for site in best}
    right = yes_or_no(correct, ds, "correct")
    visible = ds["visibility"].values.astype(object)
    absent = visible == "none"
    wrong = (right == 0) & ~absent
    groups = ["all"]
    member = [np.ones(ds.sizes["sample"], dtype=bool)]
    if by is not None:
        labels = ds[by].values.astype(object)
        for value in sorted({str(label) for label in labels}):
            groups.append(value or "none")
            member.append(np.array([str(label) == value for label in labels]))

    classes, reasons, shares, intervals, counts, expected = [], [], [], [], [], []
    steps = {name: at[site]["right"].values for name, site in (("readable", "evidence"), ("carried", "last"))}
    chances = {name: at[site]["control"].values for name, site in (("readable", "evidence"), ("carried", "last"))}
    for name in nulls:
        looked = verdict["seen"].sel(null=name).values.astype(np.float64)
        fate, undefined = _classify(visible == "visible", looked, steps["readable"], steps["carried"])
        fate = np.where(wrong, fate, -1)
        classes.append(fate)
        reasons.append(
            [int(absent.sum()), int((np.isnan(right) & ~absent).sum()), *(int((wrong & (undefined == k)).sum()) for k in range(3))]
        )
        shown = np.stack([np.where(fate < 0, np.nan, fate == k) for k in range(len(FATES))], axis=1)
        table = np.stack([np.where(inside[:, None], shown, np.nan) for inside in member], axis=1)
        spread = mean_interval(
            xr.DataArray(table, dims=("sample", "group", "fate")),
            xr.DataArray(ds["image_id"].values, dims="sample", name="image_id"),
            level=level,
            n_resamples=n_resamples,
            seed=seed,
        )
        shares.append(spread["mean"].values)
        intervals.append(spread["interval"].values)
        counts.append(np.nansum(table, axis=0).astype(int))
        rates = np.stack([verdict["false_positive_rate"].sel(null=name).values, chances["readable"], chances["carried"]], axis=1)
        judged = (fate >= 0)[:, None] & np.isfinite(rates)
        expected.append([_mean(np.where(judged & inside[:, None], rates, np.nan)) for inside in member])
    dims = ("null", "group", "fate")
    return xr.Dataset(
        {
            "fate_index": (
                ("null", "sample"),
                np.array(classes, dtype=np.int8),
                {"long_name": "index of the class", "flag_meanings": str(FATES)},
            ),
            "share": (dims, np.array(shares), {"long_name": "share of the wrong answers", "units": "1"}),
            "interval": (
                ("ci_bound", *dims),
                np.moveaxis(np.array(intervals), 1, 0),
                {"long_name": f"{level:.0%} percentile bootstrap interval over image_id", "level": level},
            ),
            "count": (dims, np.array(counts), {"long_name": "wrong answers", "units": "1"}),
            "n": (dims[:2], np.array(counts).sum(-1), {"long_name": "wrong answers with a class", "units": "1"}),
            "undefined": (("null", "reason"), np.array(reasons), {"long_name": "samples without a class", "units": "1"}),
            "expected": ((*dims[:2], "step"), np.array(expected), {"long_name": "rate at which chance passes the step", "units": "1"}),
        },
        coords={
            "null": nulls,
            "group": groups,
            "fate": list(FATES),
            "reason": list(UNDEFINED),
            "step": ["seen", "readable", "carried"],
            "ci_bound": ["lower", "upper"],
            "sample": ds["sample"],
        },
        attrs={
            **ds.attrs,
            "profile_layers": str(list(profile.layers)),
            "allow_overlap": int(allow_overlap),  # file formats know no booleans
            "by": by or "",
            "evidence_layer": int(best["evidence"]),
            "last_layer": int(best["last"]),
            "seed": seed,
        },
    )


def _classify(
    visible: NDArray[np.bool_], looked: _Floats, readable: _Floats, carried: _Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the first class that fits, -1 where a step that decides it is undefined, and which step (of three) that is."""
    fate = np.where(visible, -1, 0)
    undefined = np.full(len(fate), -1)
    open_ones = visible.copy()
    for index, step in enumerate((looked, readable, carried)):
        blank = open_ones & np.isnan(step)
        undefined[blank] = index
        open_ones &= ~blank
        lost = open_ones & (step == 0)
        fate[lost] = index + 1
        open_ones &= ~lost
    fate[open_ones] = len(FATES) - 1
    return fate, undefined


def _mean(values: _Floats) -> _Floats:
    counts = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, np.nansum(values, axis=0) / counts, np.nan)
