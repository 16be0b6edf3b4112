"""Right against wrong, by quality and by visibility: against scikit-learn, scipy, plain loops and planted effects."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binom, bootstrap, permutation_test
from sklearn.linear_model import LinearRegression

from interp.analysis import by_correctness, by_grounding_quality, grounding, mean_interval, visibility
from interp.analysis.strata import permuted_labels, strata_of
from interp.errors import InterpError
from interp.testing import traces


def _judged(right: Any, images: Any = None, **knobs: Any) -> xr.Dataset:
    n = len(right)
    ids = np.array([f"s{k}" for k in range(n)], dtype=np.dtypes.StringDType())
    pictures = np.arange(n) if images is None else np.asarray(images)
    coords = {"sample": ids, "image_id": ("sample", np.array([f"p{k}" for k in pictures], dtype=np.dtypes.StringDType()))}
    coords |= {f"knob_{name}": ("sample", np.asarray(values)) for name, values in knobs.items()}
    return xr.Dataset({"exact_match": ("sample", np.asarray(right, dtype=float))}, coords=coords, attrs={"model": "m"})


def _array(ds: xr.Dataset, values: NDArray) -> xr.DataArray:
    dims = ["sample", "layer", "head"][: values.ndim]
    return xr.DataArray(values, dims=dims, coords={"sample": ds["sample"]}, attrs={"long_name": "thing", "units": "1"})


def test_groups_interval_and_p_value_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.6
    values = rng.normal(size=80) + 0.4 * right
    ds = _judged(right)
    found = by_correctness(_array(ds, values), ds, n_permutations=4999, n_resamples=4999)
    assert found["group"].values.tolist() == ["correct", "wrong"] and found["ci_bound"].values.tolist() == ["lower", "upper"]
    assert found["mean"].values == pytest.approx([values[right].mean(), values[~right].mean()])
    assert found["n"].values.tolist() == [right.sum(), (~right).sum()]
    assert float(found["difference"]) == pytest.approx(values[right].mean() - values[~right].mean())

    def difference(a: NDArray, b: NDArray, axis: int = -1) -> NDArray:
        return a.mean(axis=axis) - b.mean(axis=axis)

    reference = permutation_test((values[right], values[~right]), difference, n_resamples=4999, rng=np.random.default_rng(1))
    assert float(found["p_value"]) == pytest.approx(reference.pvalue, abs=0.015)
    # scipy resamples each group with its size fixed; with n = 80 that is the same within a few hundredths
    interval = bootstrap((values[right], values[~right]), difference, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found["difference_interval"].values == pytest.approx([interval.low, interval.high], abs=0.05)
    assert found["difference"].attrs["long_name"] == "thing: correct minus wrong" and found.attrs["model"] == "m"


def test_a_small_permutation_test_is_the_enumeration() -> None:
    values, right = np.array([5.0, 4.0, 1.0, 2.0]), np.array([1, 1, 0, 0])
    ds = _judged(right)
    found = by_correctness(_array(ds, values), ds, n_permutations=20_000)
    # of the six ways to choose two of four, this one and its mirror image are the furthest apart
    assert float(found["p_value"]) == pytest.approx(2 / 6, abs=0.01)


def test_single_missing_values_and_left_out_samples_do_not_count() -> None:
    rng = np.random.default_rng(1)
    right = np.r_[1, 0, 1, 0, 1, 0, np.nan, 1, 0, 1]
    values = rng.normal(size=(10, 3, 2))
    values[0, 1, 1], values[8] = np.nan, np.nan
    ds = _judged(right, absent=np.arange(10) == 9)
    found = by_correctness(_array(ds, values), ds)
    assert (found.attrs["n_absent"], found.attrs["n_undefined"], found.attrs["n_unscored"]) == (1, 1, 1)
    for layer, head in np.ndindex(3, 2):
        for group, members in (("correct", [0, 2, 4, 7]), ("wrong", [1, 3, 5])):
            known = [values[k, layer, head] for k in members if not np.isnan(values[k, layer, head])]
            cell = found.sel(group=group).isel(layer=layer, head=head)
            assert float(cell["mean"]) == pytest.approx(np.mean(known)) and int(cell["n"]) == len(known)
    reordered = by_correctness(_array(ds, values)[[7, 5, 4, 3, 2, 1, 0]], ds)
    xr.testing.assert_allclose(reordered["mean"], found["mean"])


def test_strata_take_away_what_they_explain() -> None:
    rng = np.random.default_rng(2)
    size, contrast = rng.random(300), rng.random(300)
    level = np.digitize(size, np.quantile(size, [1 / 3, 2 / 3]))
    right = rng.random(300) < np.array([0.15, 0.5, 0.85])[level]
    values = 2.0 * level + rng.normal(size=300)  # follows the size of the card, not the answer
    ds = _judged(right, card_size=size, contrast=contrast)
    crude = by_correctness(_array(ds, values), ds)
    within = by_correctness(_array(ds, values), ds, strata=["card_size", "contrast"])
    assert float(crude["p_value"]) < 0.001 and float(crude["difference"]) > 0.5
    assert float(within["p_value"]) > 0.05 and abs(float(within["difference"])) < 0.4
    assert within.attrs["n_strata"] == 9 and "within strata" in within["difference"].attrs["long_name"]
    number = strata_of(ds, ["card_size", "contrast"], np.ones(300, dtype=bool))
    # the weighted mean of the strata's differences is the coefficient in a regression with one constant per stratum
    design = np.column_stack([right, number[:, None] == np.arange(9)])
    coefficient = LinearRegression(fit_intercept=False).fit(design, values).coef_[0]
    assert float(within["difference"]) == pytest.approx(coefficient)
    planted = by_correctness(_array(ds, values + right), ds, strata=["card_size", "contrast"])
    lower, upper = planted["difference_interval"].values
    assert float(planted["p_value"]) < 0.001 and lower < 1 < upper
    for name in ("mean", "n"):
        xr.testing.assert_allclose(within[name], crude[name])


def test_pictures_are_exchanged_as_a_whole_and_within_strata() -> None:
    clusters, strata = np.repeat(np.arange(6), [2, 2, 2, 3, 3, 1]), np.r_[0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1]
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1], dtype=bool)
    made = permuted_labels(labels, clusters, strata, 500)
    assert made.shape == (500, 13) and made[:, 12].tolist() == [labels[12]] * 500  # the only picture of one sample
    seen = set()
    for row in made:
        for members in ([0, 1, 2], [3, 4]):  # pictures that can be exchanged
            pairs = sorted(tuple(sorted(zip(strata[clusters == c], row[clusters == c], strict=True))) for c in members)
            assert pairs == sorted(tuple(sorted(zip(strata[clusters == c], labels[clusters == c], strict=True))) for c in members)
        seen.add(tuple(row))
    assert len(seen) == 24  # 3! orders of the pairs; 2 of the triples, times the 2 places of the first one's label in its stratum
    inside = permuted_labels(np.r_[True, False, False, True, False, False], np.repeat([0, 1], 3), np.zeros(6, int), 2000)
    assert inside.mean(axis=0) == pytest.approx(np.full(6, 1 / 3), abs=0.04) and (inside[:, :3].sum(axis=1) == 1).all()


@pytest.mark.parametrize("stratified", [False, True])
def test_the_test_keeps_its_level_when_samples_share_a_picture(stratified: bool) -> None:
    rng = np.random.default_rng(4)
    images, p_values = np.repeat(np.arange(30), 3), []
    for _ in range(200):
        chance = np.repeat(rng.random(30), 3)  # answers of one picture are alike, and so are its values
        right, values = rng.random(90) < chance, np.repeat(rng.normal(size=30), 3) + 0.3 * rng.normal(size=90)
        ds = _judged(right, images, size=np.repeat(rng.random(30), 3))
        found = by_correctness(_array(ds, values), ds, strata=["size"] if stratified else None, n_permutations=199, n_resamples=2)
        p_values.append(float(found["p_value"]))
    low, high = binom.ppf([0.005, 0.995], 200, 0.05)
    assert low <= np.sum(np.array(p_values) <= 0.05) <= high


def test_wide_arrays_in_pieces_give_what_single_columns_give(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.analysis import bootstrap, correctness

    rng = np.random.default_rng(5)
    values = rng.normal(size=(40, 5, 4))
    values[rng.random(values.shape) < 0.1] = np.nan
    ds = _judged(rng.random(40) < 0.5, rng.integers(0, 15, 40), size=rng.random(40), kind=rng.choice(["a", "b"], 40))
    whole = by_correctness(_array(ds, values), ds, strata=["size", "kind"], n_permutations=300, n_resamples=300)
    monkeypatch.setattr(correctness, "_BUDGET", 40 * 8 * 6 * 3)
    monkeypatch.setattr(bootstrap, "_BUDGET", 300 * 8 * 24 * 2)
    xr.testing.assert_allclose(by_correctness(_array(ds, values), ds, strata=["size", "kind"], n_permutations=300, n_resamples=300), whole)
    # (terciles are those of the samples that count, which a single column has fewer of, so this part is by kind only)
    monkeypatch.undo()
    whole = by_correctness(_array(ds, values), ds, strata=["kind"], n_permutations=300, n_resamples=300)
    alone = by_correctness(_array(ds, values)[:, 2, 3], ds, strata=["kind"], n_permutations=300, n_resamples=300)
    assert np.isnan(values[:, 2, 3]).any() and alone["mean"].notnull().all()
    for name in ("mean", "n", "difference"):
        np.testing.assert_allclose(alone[name].values, whole[name].isel(layer=2, head=3).values)


def test_a_split_without_one_group_has_no_difference() -> None:
    ds = _judged(np.ones(6))
    found = by_correctness(_array(ds, np.arange(12.0).reshape(6, 2)), ds)
    assert (
        found["n"].sel(group="wrong").values.tolist() == [0, 0] and found["difference"].isnull().all() and found["p_value"].isnull().all()
    )
    assert found["mean"].sel(group="correct").values.tolist() == [5.0, 6.0]
    nobody = by_correctness(_array(ds, np.full(6, np.nan)), ds)
    assert nobody["n"].values.tolist() == [0, 0] and nobody["mean"].isnull().all() and nobody.attrs["n_undefined"] == 6


def test_an_interval_needs_two_pictures_in_its_group() -> None:
    values = np.arange(8.0)
    ds = _judged([1, 1, 1, 1, 1, 1, 0, 0], images=[0, 1, 2, 3, 4, 5, 6, 6])  # all that is wrong is of one picture
    found = by_correctness(_array(ds, values), ds)
    assert float(found["mean"].sel(group="wrong")) == 6.5 and found["interval"].sel(group="wrong").isnull().all()
    assert found["interval"].sel(group="correct").notnull().all()
    assert float(found["difference"]) == -4.0 and found["difference_interval"].isnull().all()
    two = _judged(ds["exact_match"].values)
    assert by_correctness(_array(two, values), two)["difference_interval"].notnull().all()
    # in the stratum b nothing is wrong, so of what is right only the one sample of a is compared
    cut = _judged([1, 0, 0, 1, 1, 1, 1, 1], kind=["a", "a", "a", *"bbbbb"])
    within = by_correctness(_array(cut, values), cut, strata=["kind"])
    assert within["interval"].notnull().all() and float(within["difference"]) == -1.5
    assert within["difference_interval"].isnull().all()


@pytest.mark.parametrize("stratified", [False, True])
def test_relabellings_without_a_difference_do_not_count(stratified: bool) -> None:
    right, kind = np.array([1, 0, 0, 1, 1, 0, 0, 1]), np.array(list("aaaabbbb"))
    sparse = np.array([5.0, 1, np.nan, np.nan, 3, 2.5, np.nan, np.nan])
    ds = _judged(right, kind=kind)
    table = _array(ds, np.stack([np.arange(8.0), sparse], axis=1))  # where the other layer has values, every sample is kept
    strata = ["a", "b"] if stratified else ["ab"]

    def difference(labels: NDArray) -> float:
        sums, weights = 0.0, 0.0
        for stratum in strata:
            groups = [[v for v, r, k in zip(sparse, labels, kind, strict=True) if r == g and k in stratum and v == v] for g in (1, 0)]
            if all(groups):
                weight = len(groups[0]) * len(groups[1]) / (len(groups[0]) + len(groups[1]))
                sums, weights = sums + weight * float(np.mean(groups[0]) - np.mean(groups[1])), weights + weight
        return sums / weights if weights else np.nan

    if stratified:
        halves = [set(permutations(right[kind == stratum])) for stratum in strata]
        every = [np.array([*first, *second]) for first, second in product(*halves)]
    else:
        every = [np.array(each) for each in set(permutations(right))]
    found = np.array([difference(labels) for labels in every])
    defined = found[~np.isnan(found)]
    expected = (np.abs(defined) >= abs(difference(right)) - 1e-12).mean()
    assert 0 < len(defined) < len(every)
    given = by_correctness(table, ds, strata=["kind"] if stratified else None, n_permutations=20_000, n_resamples=2)
    assert float(given["difference"][1]) == pytest.approx(difference(right))
    assert float(given["p_value"][1]) == pytest.approx(expected, abs=0.01)


def test_one_sample_without_knobs_and_layers_without_values() -> None:
    one = traces(n=1, n_layers=3, seed=2)
    one = one.drop_vars([name for name in one.coords if str(name).startswith("knob_")])
    found = by_correctness(one["attention"].mean(["head", "token"]).where(one["layer"] != 1), one)
    assert found["n"].sel(group="correct").values.tolist() == [1, 0, 1] and found["n"].sel(group="wrong").values.tolist() == [0, 0, 0]
    assert found["mean"].sel(group="correct").notnull().values.tolist() == [True, False, True]
    for name in ("interval", "difference", "difference_interval", "p_value"):
        assert found[name].isnull().all(), name
    many = traces(n=8, n_layers=3, seed=2)
    partly = by_correctness(many["attention"].mean(["head", "token"]).where(many["layer"] != 1), many)
    assert partly["p_value"].isnull().values.tolist() == [False, True, False]
    assert partly["difference_interval"].isnull().all("ci_bound").values.tolist() == [False, True, False]


def test_the_split_of_a_trace_finds_the_stronger_attention_of_right_answers() -> None:
    ds = traces(n=60, n_layers=4, n_heads=2, seed=8)
    found = by_correctness(grounding(ds)["auroc"], ds)
    assert float(found["p_value"].isel(layer=3)) < 0.01
    assert float(found["difference"].isel(layer=3)) > 0 and found["layer"].values.tolist() == [0, 1, 2, 3]
    given = by_correctness(grounding(ds)["auroc"], ds, ds["exact_match"].rename("mine"))
    np.testing.assert_array_equal(given["p_value"].values, found["p_value"].values)
    assert given.attrs["correct"] == "mine"


def test_accuracy_by_quality_is_a_mean_per_bin() -> None:
    rng = np.random.default_rng(6)
    quality = np.r_[0.0, 0.3, 0.5, 0.7, 0.95, 1.0, np.nan, 0.6]
    scores = xr.DataArray(rng.random((2, 8)), dims=("method", "sample"), coords={"method": ["base", "vea"]}, name="exact_match")
    clusters = xr.DataArray(np.arange(8), dims="sample", name="image_id")
    found = by_grounding_quality(scores, xr.DataArray(quality, dims="sample"), clusters)
    assert found["bin"].values.tolist() == ["0.00 to 0.50", "0.50 to 0.70", "0.70 to 0.80", "0.80 to 0.90", "0.90 to 1.00"]
    members = [[0, 1], [2, 7], [3], [], [4, 5]]
    for index, rows in enumerate(members):
        cell = found.isel(bin=index)
        assert cell["n"].values.tolist() == [len(rows)] * 2
        np.testing.assert_allclose(cell["mean"].values, scores.values[:, rows].mean(axis=1) if rows else [np.nan] * 2, equal_nan=True)
    reference = mean_interval(scores[:, [0, 1]], clusters[[0, 1]])["interval"]
    np.testing.assert_allclose(found["interval"].isel(bin=0).transpose("ci_bound", "method").values, reference.values)
    assert found["interval"].isel(bin=3).isnull().all() and found.attrs["n_undefined"] == 1
    bad: list[tuple[Any, Any, Any, str]] = [
        (scores, xr.DataArray(quality, dims="sample"), (0, 0.5, 0.5, 1), "do not ascend"),
        (scores, xr.DataArray(quality + 1, dims="sample"), (0, 0.5, 1), "outside the edges"),
        (scores[:, :3], xr.DataArray(quality, dims="sample"), (0, 0.5, 1), "not of the same samples"),
        (scores, xr.DataArray(quality * np.nan, dims="sample"), (0, 0.5, 1), "No sample has a grounding quality"),
    ]
    for values, measure, edges, sentence in bad:
        with pytest.raises(InterpError, match=sentence):
            by_grounding_quality(values, measure, clusters, edges)


def test_visibility_is_counted_by_class() -> None:
    ds = traces(n=8, seed=2)
    classes = np.array(["visible"] * 5 + ["cut", "lost", "none"], dtype=np.dtypes.StringDType())
    ds = ds.assign_coords(visibility=("sample", classes))
    found = visibility(ds)
    assert dict(zip(found["visibility"].values.tolist(), found["count"].values.tolist(), strict=True)) == {
        "visible": 5,
        "cut": 1,
        "too_small": 0,
        "lost": 1,
        "none": 1,
    }
    assert float(found["share"].sum()) == 1.0 and found.attrs["model"] == "synthetic/2"
    lower, upper = found["interval"].sel(visibility="visible").values
    assert lower < 5 / 8 < upper
    with pytest.raises(InterpError, match="no coordinate 'visibility'"):
        visibility(ds.drop_vars("visibility"))


def test_bad_splits_get_one_sentence() -> None:
    ds = traces(n=6, seed=1)
    array = grounding(ds)["auroc"]
    bad: list[tuple[Any, Any, dict[str, Any], str]] = [
        (array.mean("sample"), ds, {}, "no dimension 'sample'"),
        (array, ds, {"correct": "luck"}, "no score 'luck'"),
        (array, ds, {"correct": "entropy"}, "`correct` \\(entropy\\) is not only 0 and 1"),
        (array, ds, {"correct": ds["attention"]}, "must be one number per sample"),
        (array, ds, {"strata": ["weight"]}, "Knob 'weight' is unknown to this trace; use arm, cards"),
        (array, ds.isel(sample=[0, 1]), {}, "Sample '.*' of the array is not in the trace"),
        (array.drop_vars("sample"), ds.isel(sample=[0, 1]), {}, "without names"),
    ]
    for given, trace, options, sentence in bad:
        with pytest.raises(InterpError, match=sentence):
            by_correctness(given, trace, **options)
