"""Cases whose truth is known: what was planted is found, and nothing is found where nothing was planted."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from interp.analysis.correctness import by_correctness
from interp.analysis.disconnect import disconnect
from interp.analysis.paired import compare
from interp.analysis.profile import Profile, profile_layers
from interp.analysis.seen import seen
from interp.testing import planted, planted_answers, traces

N_NULL_SETS = 200


@cache
def _profile() -> Profile:
    """Layers of planted pictures that no test judges."""
    return profile_layers(planted(n=60, seed=10_000), fraction=0.5)


def _on_evidence(ds: xr.Dataset) -> xr.DataArray:
    share = ds["attention"].mean(["layer", "head"]).where(ds["coverage"] > 0).sum("token")
    return share.where(ds["visibility"] == "visible").rename("attention on evidence")


def test_a_planted_trace_has_the_schema_of_a_trace() -> None:
    made, other = planted(n=12), traces(n=4)
    free = {"knob_cards", "knob_arm"}
    for name, variable in other.variables.items():
        if name not in free:
            assert made[name].dims == variable.dims and made[name].dtype == variable.dtype, name
            assert made[name].attrs == variable.attrs, name
    np.testing.assert_allclose(made["attention"].sum("token"), 1, atol=1e-5)
    xr.testing.assert_identical(made, planted(n=12))
    assert not made["attention"].equals(planted(n=12, seed=1)["attention"])


def test_the_layers_that_look_are_profiled() -> None:
    assert _profile().layers == (2, 3)
    assert all(_profile().auroc[late] > _profile().auroc[early] + 0.1 for late in (2, 3) for early in (0, 1))


@pytest.mark.parametrize("null", ["placed", "distractor"])
def test_seen_samples_are_found_one_by_one(null: str) -> None:
    ds = planted(n=300, seed=1)
    found = seen(ds, _profile()).sel(null=null)
    asked = ~ds["knob_absent"].values
    assert found["seen"].isnull().values.tolist() == (~asked).tolist()
    truth, verdict = ds["planted_seen"].values[asked], found["seen"].values[asked] == 1
    assert verdict[truth].mean() > 0.95
    assert verdict[~truth].mean() < 0.1  # below chance: those that do not see the evidence look at another card
    assert (verdict == truth).mean() > 0.93


def test_the_table_is_that_of_the_truth() -> None:
    ds = planted(n=400, seen=0.6, effect=0.6, seed=2)
    found = disconnect(ds, _profile(), readable=ds["planted_readable"].astype(float), n_resamples=300)
    assert found.attrs["headline"] == "distractor"
    judged = ds.isel(sample=~ds["knob_absent"].values)
    saw, read, right = (judged[name].values == 1 for name in ("planted_seen", "planted_readable", "exact_match"))
    assert found["n"].values.tolist() == [len(saw)] * 2
    for null in ("placed", "distractor"):
        table = found.sel(null=null)
        truth = [[[(s & r & c).mean() for c in (right, ~right)] for r in (read, ~read)] for s in (saw, ~saw)]
        np.testing.assert_allclose(table["share"].values, truth, atol=0.04)
        assert table["seen_share"].sel(group="wrong").item() == pytest.approx(saw[~right].mean(), abs=0.06)
        assert table["seen_share"].sel(group="correct").item() == pytest.approx(saw[right].mean(), abs=0.06)
        outcome = table["outcome_share"]
        assert outcome.sel(outcome="seeing but not believing").item() == pytest.approx((saw & read)[~right].mean(), abs=0.06)
        assert outcome.sel(outcome="misread").item() == pytest.approx((saw & ~read)[~right].mean(), abs=0.06)
        low, high = found["excess_interval"].sel(null=null, group="correct").values
        assert 0 < low < high


def test_the_planted_effect_of_seeing_is_recovered() -> None:
    ds = planted(n=400, effect=0.6, seed=3)
    asked = ds.isel(sample=~ds["knob_absent"].values)
    by_hand = [_on_evidence(asked).values[asked["exact_match"].values == right].mean() for right in (1, 0)]
    for strata in (None, ["card_size", "contrast"]):
        found = by_correctness(_on_evidence(ds), ds, strata=strata, n_permutations=500)
        assert float(found["p_value"]) < 0.01
        assert float(found["difference_interval"].sel(ci_bound="lower")) > 0
    whole = by_correctness(_on_evidence(ds), ds, n_permutations=10)
    assert float(whole["difference"]) == pytest.approx(by_hand[0] - by_hand[1], rel=1e-4)
    # Bayes on the planted shares: half see, of whom 80 % are right, against 20 % of the others
    verdicts = by_correctness(seen(ds, _profile())["seen"].sel(null="distractor"), ds, n_permutations=500)
    assert float(verdicts["difference"]) == pytest.approx(0.8 - 0.2, abs=0.12)


def test_a_planted_gain_is_recovered_and_no_gain_is_not_claimed() -> None:
    found = compare(planted_answers(n=600, gains={"inst": 0.0, "vea": 0.15, "worse": -0.2}, seed=4))
    assert found["method"].values.tolist() == ["inst", "vea", "worse"]
    np.testing.assert_allclose(found["difference"], [0.0, 0.15, -0.2], atol=0.06)
    low, high = found["interval"].values
    assert (low < [0.0, 0.15, -0.2]).all() and (high > [0.0, 0.15, -0.2]).all()
    for p in ("p_mcnemar", "p_permutation", "p_holm", "p_holm_permutation"):
        inst, vea, worse = found[p].values
        assert inst > 0.05 and vea < 0.001 and worse < 0.001


def _is_five_percent(hits: int) -> bool:
    low, high = binom.interval(0.95, N_NULL_SETS, 0.05)
    return low <= hits <= high


def test_correctness_tests_are_calibrated_on_null_data() -> None:
    """Samples of a picture share noise and luck, so a test that took them for independent would reject too often."""
    p_values = []
    for seed in range(N_NULL_SETS):
        ds = planted(n=60, null=True, seed=seed)
        p_values.append(float(by_correctness(_on_evidence(ds), ds, n_permutations=199, n_resamples=50)["p_value"]))
    assert _is_five_percent(int((np.array(p_values) <= 0.05).sum()))
    assert 0.45 < np.mean(p_values) < 0.58


def test_paired_tests_are_calibrated_on_null_data() -> None:
    flips, exact, covered = [], [], []
    for seed in range(N_NULL_SETS):
        shared = compare(planted_answers(n=120, gains={"inst": 0.0}, seed=seed), n_permutations=999, n_resamples=500)
        flips.append(float(shared["p_permutation"][0]))
        low, high = shared["interval"].values[:, 0]
        covered.append(low <= 0 <= high)
        apart = compare(planted_answers(n=120, gains={"inst": 0.0}, seed=seed, per_image=1), n_permutations=19, n_resamples=20)
        exact.append(float(apart["p_mcnemar"][0]))
    most = binom.interval(0.95, N_NULL_SETS, 0.05)[1]
    assert 0 < (np.array(flips) <= 0.05).sum() <= most  # discrete, so at most 5 %
    assert 0 < (np.array(exact) <= 0.05).sum() <= most
    assert N_NULL_SETS - sum(covered) <= binom.interval(0.999, N_NULL_SETS, 0.05)[1]  # a percentile bootstrap of 60 pictures is a bit short


def test_seen_is_called_as_often_as_it_says_on_null_data() -> None:
    observed, expected, claims = [], [], []
    for seed in range(N_NULL_SETS):
        found = disconnect(planted(n=24, null=True, seed=seed), _profile(), n_null=100, n_resamples=200)
        every = found.sel(group="all")
        observed.append(every["seen_share"].values)
        expected.append(every["seen_expected"].values)
        claims.append(every["excess_interval"].sel(ci_bound="lower").values > 0)
    difference = np.array(observed) - np.array(expected)
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert (error < 0.01).all()
    assert (np.abs(difference.mean(axis=0)) < 3 * error).all()
    # an interval of 95 % leaves 2.5 % on either side
    assert (np.array(claims).sum(axis=0) <= binom.interval(0.999, len(claims), 0.025)[1]).all()
