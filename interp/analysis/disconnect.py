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
from interp.analysis.matching import yes_or_no
from interp.analysis.profile import Profile
from interp.analysis.seen import NULLS, seen
from interp.analysis.visibility import visibility
from interp.errors import InterpError

GROUPS = ("all", "correct", "wrong")
OUTCOMES = ("seen", "seeing but not believing", "misread", "unseen")
REASONS = ("absent", "not visible", "seen undefined", "correctness undefined", "readable undefined")

_DRAWS, _AT_ONCE = 10_000, 1_000

_Floats = NDArray[np.float64]


def disconnect(
    ds: xr.Dataset,
    profile: Profile,
    readable: xr.Dataset | xr.DataArray | None = None,
    null: str | Sequence[str] = NULLS,
    correct: str | xr.DataArray = "exact_match",
    allow_overlap: bool = False,
    *,
    map: xr.DataArray | None = None,
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
        The visual-grounding layers, fitted on other pictures (see `Profile.check`). Its overlap rule is the one that places are judged
        by, and recorded.
    readable
        What `interp.analysis.readable` gave for these samples, or an array (sample,) of 1, 0 and NaN. Without it nothing is known of
        reading, and the dimension `readable` has the one value ``unknown``.
    null
        One or several of `NULLS`.
    correct
        Which answers are right: a score of the trace, or an array (sample,) of 1, 0 and NaN.
    allow_overlap
        Accept a profile fitted on these pictures; recorded in the attributes.
    map
        The profiled map of the trace, ``profiled_map(ds, profile)``, where it is there already: attention is then not read again.
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
          `seen_expected`, the mean false-positive rate of the rule on the same samples, `seen_excess` (with `excess_interval`), what is
          seen beyond it, and `seen_p`, two-sided, of seeing as often as chance: of so many numbers seen, drawn with each sample's own
          false-positive rate, twice the share at least as far out (10,000 draws, uncorrected). Samples of one picture are drawn
          together, as if they were one.
        - `outcome_share`, `outcome_interval` (null, outcome), shares of the *wrong* answers: seen; of those seen and readable (seeing but
          not believing) and seen but not readable (misread); and unseen. `outcome_expected` is what each would be if nobody saw.
          Where `readable` is not given the middle two are NaN.

        `headline` in the attributes names the null to quote: `distractor` where at least half of the samples that are judged have
        distractors to be held against, else `placed` (if it was asked for).

    Raises
    ------
    InterpError
        The profile is of another model or prompt order or shares pictures with the trace; `readable` is of another model; the map is of
        other layers or samples; no sample can be judged; a null or a score does not fit.
    """
    nulls = [null] if isinstance(null, str) else list(null)
    if not nulls or not set(nulls) <= set(NULLS):
        raise InterpError(f"Null {', '.join(repr(each) for each in nulls) or 'none'} is unknown; use {' or '.join(NULLS)}, or both.")
    profile.check(ds.attrs, ds["image_id"].values, allow_overlap=allow_overlap)
    _check_sources(ds, profile, readable, map)
    right = yes_or_no(correct, ds, "correct")
    reads = readable["readable"] if isinstance(readable, xr.Dataset) else readable
    read = np.ones(ds.sizes["sample"]) if reads is None else yes_or_no(reads, ds, "readable")
    verdicts = seen(ds, profile, n_null, seed, map, rule=profile.rule).sel(null=nulls)
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
    p_values = [
        [_chance_p(saw[mine, k], by_chance[mine, k], ds["image_id"].values[mine], seed) for mine in (grouped[:, k] == 1).T]
        for k in range(len(nulls))
    ]

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
            "seen_p": (("null", "group"), p_values),
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
            "headline": _headline(nulls, used),
            "correct": correct if isinstance(correct, str) else str(correct.name or "given"),
            "layers": list(profile.layers),
            "overlap_rule": profile.rule,
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
    "seen_p": "p-value, two-sided, of seeing as often as chance",
    "outcome_share": "share of the wrong answers",
    "outcome_expected": "share of the wrong answers if nobody saw",
}


def _check_sources(ds: xr.Dataset, profile: Profile, readable: xr.Dataset | xr.DataArray | None, map: xr.DataArray | None) -> None:
    """Refuse what another model read, and a map of other layers, as far as they say what they are of."""
    known = {} if readable is None else readable.attrs
    for key in ("model", "revision"):
        mine, theirs = ds.attrs.get(key), known.get(key)
        if mine is not None and theirs is not None and str(mine) != str(theirs):
            raise InterpError(
                f"`readable` is of {key} {theirs!r}, but the trace is of {mine!r}; fit and apply a probe on the traced model."
            )
    layers = None if map is None else map.attrs.get("layers")
    if layers is not None and list(layers) != list(profile.layers):
        raise InterpError(
            f"The map is of layers {list(layers)}, but the profile's are {list(profile.layers)}; pass profiled_map(ds, profile), or no map."
        )


def _headline(nulls: Sequence[str], used: NDArray[np.bool_]) -> str:
    """The null to quote, from which samples are judged (sample, null)."""
    if "placed" not in nulls:
        return "distractor"
    enough = "distractor" in nulls and 2 * used[:, nulls.index("distractor")].sum() >= used.any(axis=1).sum()
    return "distractor" if enough else "placed"


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


def _chance_p(saw: _Floats, by_chance: _Floats, pictures: NDArray[np.generic], seed: int) -> float:
    """How often as few or as many samples would be seen if each were with its own probability, twice the smaller; NaN of no sample.

    Differences from these probabilities are far from symmetric, so that flipping their signs would be no test.
    """
    if not len(saw):
        return float("nan")
    _, picture = np.unique(pictures.astype(object), return_inverse=True)
    rng, total, fewer, more = np.random.default_rng(seed), saw.sum(), 1, 1  # what was observed is one of the draws
    for start in range(0, _DRAWS, _AT_ONCE):
        levels = rng.random((min(_AT_ONCE, _DRAWS - start), picture.max() + 1))
        drawn = (levels[:, picture] < by_chance).sum(axis=1)
        fewer, more = fewer + int((drawn <= total).sum()), more + int((drawn >= total).sum())
    return min(1.0, 2 * min(fewer, more) / (_DRAWS + 1))


def _mean(values: _Floats) -> _Floats:
    """Mean over samples of what is not NaN; NaN where nothing is left."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)
