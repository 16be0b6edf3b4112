"""Right and wrong answers apart: the same quantity for both, their difference, and whether chance alone would give it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.bootstrap import cluster_numbers, interval_attrs, interval_bounds, resamples
from interp.analysis.matching import positions, yes_or_no
from interp.analysis.strata import permuted_labels, strata_of
from interp.errors import InterpError

GROUPS = ("correct", "wrong")
_BUDGET = 64 << 20  # bytes of the array worked on at once
_TOLERANCE = 1e-12  # of the largest value: a permutation that gives the same split sums in another order

_Floats = NDArray[np.float64]


def by_correctness(
    array: xr.DataArray,
    ds: xr.Dataset,
    correct: str | xr.DataArray = "exact_match",
    *,
    strata: Sequence[str] | None = None,
    n_permutations: int = 2000,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Mean of `array` over the samples answered correctly and over those answered wrongly.

    Samples that show no answer (`knob_absent`) and samples without any value belong to neither group.

    Parameters
    ----------
    array
        (sample, ...), of all or some of the samples of `ds`. Where single values are NaN, they alone do not count.
    ds
        The trace, for scores, `image_id` and knobs.
    correct
        Which answers are right: a score of the trace (``"exact_match"``, ``"contains"``) or an array (sample,), 1, 0, or NaN for neither.
    strata
        Knobs, for example ``["card_size", "contrast"]``, each cut into terciles. The difference is then taken within strata and
        averaged with weights n1 n0 / (n1 + n0), and labels are permuted within strata.
    n_permutations, n_resamples
        Of the test and of the intervals.
    seed
        Of both.

    Returns
    -------
    xr.Dataset
        `mean` (group, ...) and its percentile `interval` (ci_bound, group, ...), `n` (group, ...), `difference` (...), correct minus
        wrong, `difference_interval` (ci_bound, ...), and `p_value` (...), two-sided. Pictures are resampled as a whole, and
        the labels of one picture go together to another with as many samples (in the same strata), in random order. A relabelling that
        leaves a quantity without a difference (all its values in one group) is not counted: the test is among those that have one. An
        interval is NaN where fewer than two pictures contribute, to a difference in either group. In the attributes how many samples
        belong to neither group, and the trace's provenance.

    Raises
    ------
    InterpError
        The score or a knob is unknown, a score is neither 0 nor 1, or `array` has samples that `ds` does not.
    """
    if "sample" not in array.dims:
        raise InterpError("The array has no dimension 'sample', so it cannot be split by answers; pass it before taking means.")
    ordered = array.transpose("sample", ...)
    part = ds.drop_dims([dim for dim in ds.dims if dim != "sample"]).isel(sample=positions(ordered, ds, "the array", "the trace"))
    right = yes_or_no(correct, part, "correct")
    absent = part["knob_absent"].values.astype(bool) if "knob_absent" in part.variables else np.zeros(len(right), dtype=bool)
    empty = ordered.isnull().all([dim for dim in ordered.dims if dim != "sample"]).values
    chosen = ~np.isnan(right) & ~absent & ~empty
    strata_number = strata_of(part, strata or (), chosen)[chosen]
    strata_number = np.unique(strata_number, return_inverse=True)[1]
    clusters = cluster_numbers(part["image_id"].values[chosen]) if chosen.any() else np.empty(0, np.intp)
    rows = np.flatnonzero(chosen)
    table = ordered.values.reshape(len(right), -1)
    split = _Split(right[chosen] == 1, clusters, strata_number, n_permutations, n_resamples, level, seed)
    step = max(1, _BUDGET // (8 * max(len(rows), 1) * max(len(split.strata), 1)))
    columns = [split(table[rows, start : start + step].astype(np.float64)) for start in range(0, table.shape[1], step)]
    mean, n, difference, bounds, p_value = (np.concatenate(each, axis=-1) for each in zip(*columns, strict=True))
    return _labelled(
        ordered,
        {"mean": mean, "n": n, "difference": difference, "bounds": bounds, "p_value": p_value},
        ds.attrs
        | {
            "correct": correct if isinstance(correct, str) else str(correct.name or "given"),
            "strata": json.dumps(list(strata or ())),
            "n_strata": int(strata_number.max(initial=-1)) + 1,
            "n_absent": int(absent.sum()),
            "n_undefined": int((empty & ~absent).sum()),
            "n_unscored": int((np.isnan(right) & ~absent & ~empty).sum()),
            "n_permutations": n_permutations,
            "n_resamples": n_resamples,
            "seed": seed,
        },
        level,
    )


class _Split:
    """Means, differences, intervals and p-values of tables (sample, m), for one assignment of samples to groups."""

    def __init__(
        self,
        right: NDArray[np.bool_],
        clusters: NDArray[np.intp],
        strata: NDArray[np.intp],
        n_permutations: int,
        n_resamples: int,
        level: float,
        seed: int,
    ) -> None:
        self.right, self.level = right, level
        self.clusters, self.n_clusters = clusters, int(clusters.max(initial=-1)) + 1
        self.strata = [np.flatnonzero(strata == number) for number in range(int(strata.max(initial=-1)) + 1)]
        if self.strata:
            self.draws = resamples(self.n_clusters, n_resamples, seed)
            self.relabelled = permuted_labels(right, clusters, strata, n_permutations, seed)

    def __call__(self, table: _Floats) -> tuple[_Floats, ...]:
        """`mean` and `n` (2, m), `difference` (m,), bounds (2, 3, m) of the means and the difference, and p-values (m,)."""
        width = table.shape[1]
        if not self.strata:
            nothing = np.full(width, np.nan)
            return np.full((2, width), np.nan), np.zeros((2, width), int), nothing, np.full((2, 3, width), np.nan), nothing
        present = ~np.isnan(table)
        known = np.where(present, table, 0.0)
        totals: list[_Floats] = []
        for rows in self.strata:
            for group in (self.right, ~self.right):
                for values in (known, present):
                    sums = np.zeros((self.n_clusters, width))
                    mine = rows[group[rows]]
                    np.add.at(sums, self.clusters[mine], values[mine])
                    totals.append(sums)
        observed = _statistics([total.sum(axis=0) for total in totals])
        bounds = interval_bounds(self.draws, totals, _statistics, self.level, _contributing(totals))
        n = np.stack([present[self.right].sum(axis=0), present[~self.right].sum(axis=0)])
        return observed[:2], n, observed[2], bounds, self._p_value(known, present.astype(np.float64), observed[2])

    def _p_value(self, known: _Floats, present: _Floats, observed: _Floats) -> _Floats:
        """Share of the relabellings with a difference, the actual one included, whose difference is at least as far from 0."""
        # The actual labels are as likely as any others with a difference; the rest could never be extreme, and would make p too small.
        extreme, defined = np.ones(known.shape[1]), np.ones(known.shape[1])
        step = max(1, _BUDGET // (8 * max(known.shape) * len(self.strata)))
        least = np.abs(observed) - _TOLERANCE * np.abs(known).max(axis=0, initial=0.0)
        for start in range(0, len(self.relabelled), step):
            labels = self.relabelled[start : start + step].astype(np.float64)
            totals: list[_Floats] = []
            for rows in self.strata:
                sums, counts = labels[:, rows] @ known[rows], labels[:, rows] @ present[rows]
                totals += [sums, counts, known[rows].sum(axis=0) - sums, present[rows].sum(axis=0) - counts]
            found = np.abs(_difference(totals))
            extreme += (found >= least).sum(axis=0)
            defined += (~np.isnan(found)).sum(axis=0)
        return np.where(np.isnan(observed), np.nan, extreme / defined)


def _statistics(totals: Sequence[_Floats]) -> _Floats:
    """Mean of the correct, mean of the wrong, and their difference (3, ...), from sum and number of either group in each stratum."""
    sums1, counts1, sums0, counts0 = (sum(totals[k::4], start=np.zeros_like(totals[0])) for k in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([sums1 / counts1, sums0 / counts0, _difference(totals)])


def _contributing(totals: Sequence[_Floats]) -> NDArray[np.integer]:
    """How many clusters (3, m) contribute to each of the `_statistics`; to the difference, in the group that has fewer."""
    in_groups = [[counts > 0 for counts in totals[k::4]] for k in (1, 3)]
    # only a stratum with values in both groups has a part in the difference
    compared = [right.any(axis=0) & wrong.any(axis=0) for right, wrong in zip(*in_groups, strict=True)]
    means = [np.any(group, axis=0).sum(axis=0) for group in in_groups]
    sides = [np.any([here & both for here, both in zip(group, compared, strict=True)], axis=0).sum(axis=0) for group in in_groups]
    return np.stack([*means, np.minimum(*sides)])


def _difference(totals: Sequence[_Floats]) -> _Floats:
    """Within strata, weighted by n1 n0 / (n1 + n0): the weights with the least variance, 0 where a stratum has one group only."""
    weighted, weights = np.zeros_like(totals[0]), np.zeros_like(totals[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        for sums1, counts1, sums0, counts0 in zip(totals[::4], totals[1::4], totals[2::4], totals[3::4], strict=True):
            both = counts1 * counts0 > 0
            weight = np.where(both, counts1 * counts0 / (counts1 + counts0), 0.0)
            weighted += np.where(both, weight * (sums1 / counts1 - sums0 / counts0), 0.0)
            weights += weight
        return weighted / weights


def _labelled(array: xr.DataArray, found: dict[str, NDArray], attrs: dict[str, object], level: float) -> xr.Dataset:
    rest = [dim for dim in array.dims if dim != "sample"]
    shape = tuple(array.sizes[dim] for dim in rest)
    what = str(array.attrs.get("long_name", array.name or "the values"))
    units = {"units": array.attrs["units"]} if "units" in array.attrs else {}
    ci = interval_attrs(level, "image_id")

    def labelled(values: NDArray, dims: list[str], **described: object) -> xr.DataArray:
        return xr.DataArray(values.reshape((*values.shape[:-1], *shape)), dims=[*dims, *rest], attrs=described)

    bounds = found["bounds"]
    stratified = " within strata" if attrs["strata"] != "[]" else ""
    return xr.Dataset(
        {
            "mean": labelled(found["mean"], ["group"], long_name=what, **units),
            "interval": labelled(bounds[:, :2], ["ci_bound", "group"], **ci, **units),
            "n": labelled(found["n"], ["group"], long_name="samples", units="1"),
            "difference": labelled(found["difference"], [], long_name=f"{what}: correct minus wrong{stratified}", **units),
            "difference_interval": labelled(bounds[:, 2], ["ci_bound"], **ci, **units),
            "p_value": labelled(found["p_value"], [], long_name="two-sided p-value, labels of whole pictures permuted", units="1"),
        },
        coords={
            "group": list(GROUPS),
            "ci_bound": ["lower", "upper"],
            **{name: coord for name, coord in array.coords.items() if "sample" not in coord.dims},
        },
        attrs=attrs,
    )
