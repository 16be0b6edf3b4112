"""Paired statistics against enumeration, plain loops and scipy."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from interp.analysis.paired import compare, holm, mcnemar
from interp.errors import InterpError
from interp.testing import planted_answers


def _answers(scores: Sequence[Sequence[float]], name: str = "exact_match") -> xr.Dataset:
    n = len(scores[0])
    methods = ["base", *(f"m{k}" for k in range(1, len(scores)))]
    coords = {"method": methods, "sample": [f"s{k}" for k in range(n)], "image_id": ("sample", [f"i{k}" for k in range(n)])}
    return xr.Dataset({name: (("method", "sample"), np.array(scores, dtype=float))}, coords=coords)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (30, 12)])
def test_mcnemar_sums_the_binomial_tails(wins: int, losses: int) -> None:
    n, least = wins + losses, max(wins, losses)
    tail = sum(comb(n, k) for k in range(least, n + 1)) / 2**n
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, 2 * tail))


def test_holm_by_hand() -> None:
    # smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04, never falling
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.02, np.nan, 0.04]).tolist() == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert holm([]).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all() and (adjusted <= np.minimum(np.array(p) * len(p), 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_differences_wins_and_losses_are_counted_pair_by_pair() -> None:
    base, first, second = [1, 0, 0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 1, 1, 1], [np.nan, 0, 1, 1, 0, 0, 0, 0]
    found = compare(_answers([base, first, second]))
    assert found["method"].values.tolist() == ["m1", "m2"]
    assert found["wins"].values.tolist() == [4, 1] and found["losses"].values.tolist() == [1, 1]
    assert found["n"].values.tolist() == [8, 7] and found["n_images"].values.tolist() == [8, 7]
    assert found["difference"].values.tolist() == pytest.approx([3 / 8, 0.0])
    assert found["mean"].values.tolist() == pytest.approx([6 / 8, 2 / 7])
    assert found["mean_against"].values.tolist() == pytest.approx([3 / 8, 2 / 7])
    p = [mcnemar(4, 1), mcnemar(1, 1)]
    assert found["p_mcnemar"].values.tolist() == pytest.approx(p)
    assert found["p_holm"].values.tolist() == pytest.approx([min(1, 2 * p[0]), 1.0])
    assert found["interval"].dims == ("ci_bound", "method") and found["interval"]["ci_bound"].values.tolist() == ["lower", "upper"]
    against = compare(_answers([base, first, second]), against="m1")
    assert against["method"].values.tolist() == ["base", "m2"] and against["difference"].values[0] == pytest.approx(-3 / 8)


def test_scores_between_0_and_1_have_no_mcnemar_but_a_permutation_test() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 9))
    found = compare(_answers(scores.tolist(), name="anls"), score="anls")
    assert found["p_mcnemar"].isnull().all() and found["p_holm"].isnull().all()
    reference = permutation_test((scores[1], scores[0]), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=1000)
    assert found["p_permutation"].values[0] == pytest.approx(reference.pvalue)


def test_the_permutation_test_is_the_same_drawn_as_enumerated() -> None:
    scores = np.random.default_rng(1).random((2, 12))
    enumerated = compare(_answers(scores.tolist()), n_permutations=2**12)["p_permutation"].values[0]
    drawn = compare(_answers(scores.tolist()), n_permutations=2**12 - 1)["p_permutation"].values[0]
    assert drawn != enumerated and drawn == pytest.approx(enumerated, abs=0.03)


def test_samples_of_one_picture_count_as_one() -> None:
    once = planted_answers(n=60, gains={"vea": 0.2}, seed=2, per_image=1)
    thrice = xr.concat([once.assign_coords(sample=[f"{k}-{i}" for i in range(60)]) for k in range(3)], dim="sample")
    one, three = compare(once, seed=5), compare(thrice, seed=5)
    assert three["n"].values[0] == 180 and three["n_images"].values[0] == one["n_images"].values[0] == 60
    np.testing.assert_allclose(one["interval"], three["interval"])
    assert one["p_permutation"].values[0] == three["p_permutation"].values[0]
    assert three["p_mcnemar"].values[0] < one["p_mcnemar"].values[0]  # McNemar is told of 180 independent samples


def test_the_interval_agrees_with_scipy() -> None:
    answers = planted_answers(n=100, gains={"vea": 0.2}, seed=6, per_image=1)
    gained = np.diff(answers["exact_match"].values, axis=0)[0]
    reference = bootstrap((gained,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    found = compare(answers, n_resamples=9999)["interval"].values[:, 0]
    assert found == pytest.approx([reference.low, reference.high], abs=0.02)


def test_bad_answers_are_named() -> None:
    answers = planted_answers(n=8)
    with pytest.raises(InterpError, match="'rouge' is not among .* use one of exact_match"):
        compare(answers, score="rouge")
    with pytest.raises(InterpError, match="'cgr' cannot be compared with the others here \\(base, inst, vea\\)"):
        compare(answers, against="cgr")
    with pytest.raises(InterpError, match="'base' cannot be compared"):
        compare(answers.isel(method=[0]))
    with pytest.raises(InterpError, match="image_id"):
        compare(answers.drop_vars("image_id"))
