"""Methods against one another on the same samples: what a method wins and loses, and whether that could be chance."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError

_Floats = NDArray[np.float64]


def compare(
    answers: xr.Dataset,
    against: str = "base",
    score: str = "exact_match",
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Every method of `answers` against one of them, paired by sample.

    Parameters
    ----------
    answers
        `score` (method, sample) with the coordinate `image_id`. A sample where either score is NaN does not count.
    against
        The method the others are compared with: `base`, or `inst`, which differs from `vea` by the highlighting alone.
    score
        A variable of `answers`.
    level
        Of the interval.
    n_resamples, n_permutations
        Of the bootstrap and of the sign-flip test.
    seed
        Of both.

    Returns
    -------
    xr.Dataset
        Over `method` (the others): `mean`, `mean_against`, `difference` (theirs less `against`'s) with its `interval` (ci_bound), a
        bootstrap over pictures; `wins` and `losses`, samples scored higher and lower; `n` samples and `n_images` pictures;
        `p_mcnemar`, exact and two-sided, NaN where a score is neither 0 nor 1, or none is paired; `p_permutation`, two-sided, from
        flipping the sign of whole pictures; `p_holm` and `p_holm_permutation`, each after Holm over the methods.

        McNemar's test takes the samples for independent; where samples share pictures, `p_permutation` is the one to read.

    Raises
    ------
    InterpError
        `answers` has no such score or method, no other method, or no picture ids.
    """
    table, methods = _table(answers, against, score)
    others = [name for name in methods if name != against]
    base = table[methods.index(against)]
    theirs = np.array([table[methods.index(name)] for name in others])
    gained = np.where(np.isnan(base), np.nan, theirs - base)
    paired = ~np.isnan(gained)
    # a method that was not applicable is no test, and must not count as one in Holm's correction
    binary = [both.any() and bool(np.isin([*row[both], *base[both]], (0.0, 1.0)).all()) for row, both in zip(theirs, paired, strict=True)]
    wins, losses = (gained > 0).sum(axis=1), (gained < 0).sum(axis=1)
    clusters = answers["image_id"]
    spread = mean_interval(
        xr.DataArray(gained, dims=("method", "sample")),
        clusters.drop_vars(clusters.coords),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
    exact = np.array([mcnemar(w, x) if yes else np.nan for w, x, yes in zip(wins, losses, binary, strict=True)])
    flipped = np.array([_sign_flip(row, clusters.values, n_permutations, seed) for row in gained])
    n_images = [len({str(i) for i in clusters.values[both]}) for both in paired]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.where(paired, values, 0.0).sum(axis=1) / paired.sum(axis=1) for values in (theirs, np.broadcast_to(base, theirs.shape))]
    columns: dict[str, tuple[ArrayLike, str]] = {
        "mean": (means[0], f"mean {score}"),
        "mean_against": (means[1], f"mean {score} of {against}"),
        "difference": (means[0] - means[1], f"mean {score} less that of {against}"),
        "wins": (wins, f"samples scored higher than by {against}"),
        "losses": (losses, f"samples scored lower than by {against}"),
        "n": (paired.sum(axis=1), "samples with both scores"),
        "n_images": (n_images, "pictures of those samples"),
        "p_mcnemar": (exact, "p-value, McNemar, exact and two-sided"),
        "p_permutation": (flipped, "p-value, signs of whole pictures flipped, two-sided"),
        "p_holm": (holm(exact), "p_mcnemar after Holm over the methods"),
        "p_holm_permutation": (holm(flipped), "p_permutation after Holm over the methods"),
    }
    variables = {name: ("method", values, {"long_name": text, "units": "1"}) for name, (values, text) in columns.items()}
    result = xr.Dataset(variables, coords={"method": others}, attrs={**answers.attrs, "against": against, "score": score, "seed": seed})
    return result.assign(interval=spread["interval"])


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test from the discordant pairs; 1 where there are none."""
    n = int(wins) + int(losses)
    return float(binomtest(int(wins), n, 0.5).pvalue) if n else 1.0


def holm(p_values: ArrayLike) -> _Floats:
    """P-values (test,) after Holm's step-down correction for as many tests as are not NaN.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN sorts last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def _table(answers: xr.Dataset, against: str, score: str) -> tuple[_Floats, list[str]]:
    if score not in answers.data_vars or set(answers[score].dims) != {"method", "sample"}:
        known = [str(name) for name, v in answers.data_vars.items() if set(v.dims) == {"method", "sample"} and v.dtype.kind in "fiub"]
        raise InterpError(f"Score {score!r} is not among the answers' scores (method, sample); use one of {', '.join(known) or 'none'}.")
    if "image_id" not in answers.coords:
        raise InterpError(
            "These answers have no coordinate image_id, so samples cannot be resampled by picture; use those of interp.evaluate."
        )
    methods = [str(name) for name in answers["method"].values]
    if against not in methods or len(methods) < 2:
        raise InterpError(
            f"Method {against!r} cannot be compared with the others here ({', '.join(methods)}); answer with it and another method."
        )
    return np.asarray(answers[score].transpose("method", "sample").values, dtype=np.float64), methods


def _sign_flip(gained: _Floats, clusters: NDArray[np.generic], n_permutations: int, seed: int) -> float:
    """Share of sign assignments to pictures whose total is at least as far from 0: all of them where they are few, else a random lot."""
    kept = ~np.isnan(gained)
    if not kept.any():
        return np.nan
    _, member = np.unique(clusters[kept].astype(object), return_inverse=True)
    totals = np.bincount(member, weights=gained[kept])
    totals = totals[totals != 0]  # a picture without a change has no sign to flip
    n = len(totals)
    if 2**n <= n_permutations:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extreme, drawn = 0, 0
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_permutations, n))
        extreme, drawn = 1, 1  # the assignment that was observed is one of them
    extreme += int((np.abs(signs @ totals) >= abs(totals.sum()) - 1e-9).sum())
    return extreme / (len(signs) + drawn)
