"""Seen, readable, correct: whether wrong answers come from not looking, from not reading, or from not believing what was seen.

Only samples whose evidence survives the model's preprocessing are judged, and how many those are is part of the result. Every share of
seen samples stands beside the share that the same rule would call seen if evidence lay where chance puts it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.bootstrap import mean_interval
from interp.analysis.profile import Profile
from interp.analysis.seen import NULLS, seen
from interp.analysis.visibility import visibility
from interp.errors import InterpError

GROUPS = ("all", "correct", "wrong")
OUTCOMES = ("seen", "seeing but not believing", "misread", "unseen")
REASONS = ("absent", "not visible", "seen undefined", "correctness undefined", "readable undefined")

_Floats = NDArray[np.float64]


def disconnect(
    ds: xr.Dataset,
    profile: Profile,
    readable: xr.Dataset | xr.DataArray | None = None,
    null: str | Sequence[str] = NULLS,
    correct: str | xr.DataArray = "exact_match",
    allow_overlap: bool = False,
    *,
    n_null: int = 200,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """The table seen x readable x correct, and what it says of the wrong answers.

    Parameters
    ----------
    ds
        A trace with answers.
    profile
        The visual-grounding layers, fitted on other pictures (see `Profile.check`).
    readable
        What `interp.analysis.readable` gave for these samples, or an array (sample,) of 1, 0 and NaN. Without it nothing is known of
        reading, and the dimension `readable` has the one value ``unknown``.
    null
        One or several of `NULLS`.
    correct
        Which answers are right: a score of the trace, or an array (sample,) of 1, 0 and NaN.
    allow_overlap
        Accept a profile fitted on these pictures; recorded in the attributes.
    n_null, seed
        As in `seen`; `seed` serves the bootstrap too.
    level, n_resamples
        Of the intervals, all bootstrapped over pictures.

    Returns
    -------
    xr.Dataset
        First what was visible: `visibility_count`, `visibility_share` and `visibility_interval` over `visibility`; `excluded` (null,
        reason), each sample counted under its first reason; `n` (null,), what is left. Of these:

        - `count`, `share`, `interval` (null, seen, readable, correct): the table.
        - `seen_share`, `seen_interval`, `seen_n` (null, group) for all, the correct and the wrong answers, with
          `seen_expected`, the mean false-positive rate of the rule on the same samples, and `seen_excess` (with `excess_interval`), what is
          seen beyond it.
        - `outcome_share`, `outcome_interval` (null, outcome), shares of the *wrong* answers: seen; of those seen and readable (seeing but
          not believing) and seen but not readable (misread); and unseen. `outcome_expected` is what each would be if nobody saw.
          Where `readable` is not given the middle two are NaN.

        `headline` in the attributes names the null to quote: `distractor` where the benchmark has distractors, else `placed`.

    Raises
    ------
    InterpError
        The profile is of another model or prompt order or shares pictures with the trace; no sample can be judged; a null, a score or
        `readable` does not fit.
    """
    nulls = [null] if isinstance(null, str) else list(null)
    if not nulls or not set(nulls) <= set(NULLS):
        raise InterpError(f"Null {', '.join(map(repr, nulls)) or 'none'} is unknown; use {' or '.join(NULLS)}, or both.")
    profile.check(ds.attrs, ds["image_id"].values, allow_overlap=allow_overlap)
    right = _binary(ds[correct] if isinstance(correct, str) and correct in ds.data_vars else correct, ds, "correct")
    reads = readable["readable"] if isinstance(readable, xr.Dataset) else readable
    read = np.ones(ds.sizes["sample"]) if reads is None else _binary(reads, ds, "readable")
    verdicts = seen(ds, profile, n_null, seed).sel(null=nulls)
    saw, by_chance = verdicts["seen"].values, verdicts["false_positive_rate"].values
    reason = _reasons(ds, saw, right, read)
    used = reason < 0
    if not used.any():
        raise InterpError(
            "No sample of this trace has visible evidence, a null to hold it against and a known answer, so there is nothing to judge; "
            "trace samples with evidence boxes, or look at interp.analysis.visibility first."
        )

    kept = np.where(used, 1.0, np.nan)  # (sample, null); a share over these counts used samples only
    read_levels = ["unknown"] if reads is None else ["readable", "unreadable"]
    correct_of, read_of = np.stack([right, 1 - right], axis=1), np.stack([read, 1 - read], axis=1)[:, : len(read_levels)]
    seen_of = np.stack([saw, 1 - saw], axis=-1)
    cells = np.einsum("kns,kr,kc->knsrc", np.nan_to_num(seen_of), np.nan_to_num(read_of), np.nan_to_num(correct_of))
    of_group = np.stack([np.ones_like(right), *np.where(correct_of == 1, 1.0, np.nan).T], axis=1)
    grouped = kept[:, :, None] * of_group[:, None, :]
    wrong = grouped[:, :, -1:]

    clusters = xr.DataArray(ds["image_id"].values, dims="sample", name="image_id")

    def shares(values: _Floats, *dims: str) -> xr.Dataset:
        array = xr.DataArray(values, dims=("sample", "null", *dims))
        return mean_interval(array, clusters, level=level, n_resamples=n_resamples, seed=seed)

    table = shares(cells * kept[:, :, None, None, None], "seen", "readable", "correct")
    found = shares(grouped * saw[:, :, None], "group")
    excess = shares(grouped * (saw - by_chance)[:, :, None], "group")
    outcome = shares(wrong * _outcomes(saw, read, reads is not None), "outcome")
    seeable = visibility(ds, level=level, n_resamples=n_resamples, seed=seed)
    result = xr.Dataset(
        {
            **{f"visibility_{name}": seeable[name] for name in ("count", "share", "interval")},
            "excluded": (("null", "reason"), np.stack([(reason == k).sum(axis=0) for k in range(len(REASONS))], axis=1)),
            "n": ("null", used.sum(axis=0)),
            "count": (table["mean"].dims, (cells * used[:, :, None, None, None]).sum(axis=0).astype(np.int64)),
            "share": table["mean"],
            "interval": table["interval"],
            "seen_share": found["mean"],
            "seen_interval": found["interval"],
            "seen_n": found["n"],
            "seen_expected": (("null", "group"), _mean(grouped * by_chance[:, :, None])),
            "seen_excess": excess["mean"],
            "excess_interval": excess["interval"],
            "outcome_share": outcome["mean"],
            "outcome_interval": outcome["interval"],
            "outcome_expected": (("null", "outcome"), _mean(wrong * _outcomes(by_chance, read, reads is not None))),
        },
        coords={
            "null": nulls,
            "seen": ["seen", "unseen"],
            "readable": read_levels,
            "correct": ["correct", "wrong"],
            "group": list(GROUPS),
            "outcome": list(OUTCOMES),
            "reason": list(REASONS),
        },
        attrs={
            **ds.attrs,
            "headline": "distractor" if "distractor" in nulls and used[:, nulls.index("distractor")].any() else nulls[0],
            "correct": correct if isinstance(correct, str) else str(correct.name or "given"),
            "layers": list(profile.layers),
            "allow_overlap": int(allow_overlap),  # file formats know no booleans
            "n_null": n_null,
            "seed": seed,
        },
    )
    for name, text in _LONG_NAMES.items():
        result[name].attrs |= {"long_name": text, "units": "1"}
    return result


_LONG_NAMES = {
    "excluded": "samples that are not judged",
    "n": "samples judged",
    "count": "samples",
    "share": "share of the samples judged",
    "seen_share": "share of samples whose evidence is seen",
    "seen_n": "samples",
    "seen_expected": "share that would be called seen by chance",
    "seen_excess": "share seen beyond chance",
    "outcome_share": "share of the wrong answers",
    "outcome_expected": "share of the wrong answers if nobody saw",
}


def _reasons(ds: xr.Dataset, saw: _Floats, right: _Floats, read: _Floats) -> NDArray[np.int64]:
    """(sample, null): the first of `REASONS` not to judge a sample, or -1."""
    absent = ds["knob_absent"].values.astype(bool) if "knob_absent" in ds.variables else np.zeros(len(right), dtype=bool)
    hidden = ds["visibility"].values.astype(object) != "visible"
    checks = [np.broadcast_to(each[:, None], saw.shape) for each in (absent, hidden)]
    checks.append(np.isnan(saw))
    checks += [np.broadcast_to(np.isnan(each)[:, None], saw.shape) for each in (right, read)]
    stacked = np.stack(checks)
    return np.where(stacked.any(axis=0), stacked.argmax(axis=0), -1)


def _outcomes(saw: _Floats, read: _Floats, known: bool) -> _Floats:
    """(sample, null, outcome) from what was seen (sample, null), or the chance of it, and read (sample,)."""
    could = read[:, None] if known else np.full((len(read), 1), np.nan)
    return np.stack([saw, saw * could, saw * (1 - could), 1 - saw], axis=-1)


def _mean(values: _Floats) -> _Floats:
    """Mean over samples of what is not NaN; NaN where nothing is left."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)


def _binary(given: str | xr.DataArray, ds: xr.Dataset, what: str) -> _Floats:
    """One of 1, 0 and NaN for each sample of the trace, matched by name."""
    if isinstance(given, str):
        raise InterpError(f"The trace has no score {given!r}; trace with answers, or name one of its scores, for example exact_match.")
    if given.dims != ("sample",):
        raise InterpError(f"`{what}` has dimensions {given.dims}; it must be one number per sample.")
    values = given.values.astype(np.float64)
    if "sample" in given.coords:
        place = {str(name): k for k, name in enumerate(given["sample"].values)}
        missing = [str(name) for name in ds["sample"].values if str(name) not in place]
        if missing:
            raise InterpError(f"`{what}` says nothing of sample {missing[0]!r} of the trace; compute it for the samples that were traced.")
        values = values[[place[str(name)] for name in ds["sample"].values]]
    elif len(values) != ds.sizes["sample"]:
        raise InterpError(f"`{what}` has {len(values)} samples without names, the trace {ds.sizes['sample']}; pass its own.")
    if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        raise InterpError(f"`{what}` ({given.name}) is not only 0 and 1, so it does not split samples in two; use a yes-or-no score.")
    return values
