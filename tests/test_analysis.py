"""AUROC, profiles and intervals against scikit-learn, scipy and planted cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

import interp
from interp.analysis import Profile, auroc, evidence_labels, mean_interval, profile_layers, profiled_map, segment_mass
from interp.analysis.auroc import auroc_kernel
from interp.errors import InterpError
from interp.testing import traces


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 40), st.booleans())
def test_auroc_equals_scikit_learn_with_ties_and_left_out_tokens(seed: int, n: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (3, n)).astype(float) if tied else rng.random((3, n))
    labels = rng.integers(0, 2, n).astype(float)
    labels[rng.random(n) < 0.3] = np.nan
    found = auroc_kernel(scores, labels)
    kept = ~np.isnan(labels)
    if len(np.unique(labels[kept])) < 2:
        assert np.isnan(found).all()
    else:
        for row, value in zip(scores, found, strict=True):
            assert value == pytest.approx(roc_auc_score(labels[kept], row[kept]), abs=1e-9)


def test_auroc_over_a_trace_counts_what_it_cannot_score() -> None:
    ds = traces(n=8, seed=3)
    blind = ds.copy()
    blind["coverage"] = ds["coverage"].where(ds["sample"] != ds["sample"][2], ds["coverage"] * 0)
    result = auroc(blind["attention"], blind["coverage"])
    assert result.dims == ("sample", "layer", "head") and result.attrs["n_undefined"] == 1
    assert result[2].isnull().all() and result[[0, 1, 3]].notnull().all()
    sample, layer, head = 4, 1, 2
    labels = evidence_labels(ds["coverage"])[sample].values
    kept = ~np.isnan(labels)
    expected = roc_auc_score(labels[kept], ds["attention"][sample, layer, head].values[kept])
    assert float(result[sample, layer, head]) == pytest.approx(expected, abs=1e-9)


def test_overlap_rules_are_thresholds_on_coverage() -> None:
    coverage = xr.DataArray([[0.0, 0.2, 0.5, 1.0, np.nan]], dims=("sample", "token"))
    assert evidence_labels(coverage, "any").values.tolist()[0][:4] == [0, 1, 1, 1]
    assert evidence_labels(coverage, "half").values.tolist()[0][:4] == [0, 0, 1, 1]
    assert evidence_labels(coverage, "all").values.tolist()[0][:4] == [0, 0, 0, 1]
    assert bool(evidence_labels(coverage).isnull()[0, 4])
    with pytest.raises(InterpError, match="'most' is unknown; use any, half or all"):
        evidence_labels(coverage, "most")  # type: ignore[arg-type]


def test_a_planted_layer_is_profiled_and_a_profile_survives_the_disk(tmp_path: Path) -> None:
    ds = traces(n=10, n_layers=6, seed=1)
    positive = evidence_labels(ds["coverage"]) == 1
    planted = ds["attention"].where(~(positive & (ds["layer"] == 4)), 1.0)
    ds = ds.assign(attention=planted.transpose(*ds["attention"].dims))
    profile = profile_layers(ds, fraction=0.1)
    assert profile.layers == (4,) and profile.auroc[4] == pytest.approx(1.0)
    assert set(profile.sample_ids) == set(ds["sample"].values.astype(object))
    profile.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == profile
    np.testing.assert_allclose(profiled_map(ds, profile).values, ds["attention"].sel(layer=4).mean("head").values)
    assert len(profile_layers(ds, fraction=0.5).layers) == 3
    with pytest.raises(InterpError, match="outside"):
        profile_layers(ds, fraction=0.0)
    (tmp_path / "bad.json").write_text("[1, 2]")
    with pytest.raises(InterpError, match=r"bad\.json"):
        Profile.load(tmp_path / "bad.json")


def test_a_planted_head_is_profiled_with_the_intervals_of_its_layer(tmp_path: Path) -> None:
    ds = traces(n=14, n_layers=5, n_heads=4, seed=2)
    positive = evidence_labels(ds["coverage"]) == 1
    chosen = (ds["layer"] == 1) & (ds["head"] == 3)
    ds["attention"] = ds["attention"].where(~(positive & chosen), 1.0).transpose(*ds["attention"].dims)
    profile = profile_layers(ds)
    assert profile.heads[0] == (1, 3) and profile.head_auroc[1][3] == pytest.approx(1.0) and len(profile.heads) == 2
    per_head = auroc(ds["attention"], ds["coverage"])
    np.testing.assert_allclose(profile.head_auroc, per_head.mean("sample").values)
    layers = mean_interval(auroc(ds["attention"].mean("head"), ds["coverage"]), ds["image_id"])
    np.testing.assert_allclose(profile.auroc, layers["mean"].values)
    np.testing.assert_allclose(profile.interval, layers["interval"].transpose("layer", "ci_bound").values)
    profile.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == profile
    upper = profile_layers(ds.isel(layer=[0, 1, 2]), fraction=0.01)
    assert upper.heads == ((1, 3),)
    assert profile_layers(ds.isel(layer=[1, 4], head=[3, 0]), fraction=0.01).heads == ((1, 3),)  # labels, not places


@pytest.mark.parametrize(("out_of_reach", "chosen"), [(0, (3,)), (2, (3,)), (3, (1,)), (30, (1,))])
def test_a_layer_judged_on_fewer_samples_is_not_chosen(out_of_reach: int, chosen: tuple[int, ...]) -> None:
    """Layer 3 ranks all evidence it can see first, and cannot see that of some samples; layer 1 is good, and is judged on all 40."""
    ds = traces(n=40, n_layers=5, n_heads=2, seed=4)
    positive, image = evidence_labels(ds["coverage"]) == 1, ds["coverage"].notnull()
    unseen = image & (ds["layer"] == 3) & (xr.DataArray(np.arange(40), dims="sample") < out_of_reach)
    most = ds["coverage"].copy(data=np.random.default_rng(0).random(ds["coverage"].shape) < 0.9)
    found = positive & ((ds["layer"] == 3) | ((ds["layer"] == 1) & most))
    attention = ds["attention"].where(~found, 1.0).where(~unseen)
    ds = ds.assign(attention=attention.transpose(*ds["attention"].dims))
    profile = profile_layers(ds, fraction=0.1)
    assert profile.n_undefined == 0 and profile.auroc[3] == pytest.approx(1.0) and 0.9 < profile.auroc[1] < 1
    assert all(profile.auroc[layer] < profile.auroc[1] for layer in (0, 2, 4))
    assert profile.layers == chosen and {layer for layer, _ in profile.heads} == set(chosen)
    whole = profile_layers(ds, fraction=1.0)
    limited = out_of_reach > 2
    assert whole.layers == ((0, 1, 2, 4) if limited else (0, 1, 2, 3, 4)) and len(whole.heads) == (8 if limited else 10)


def test_segment_mass_adds_up() -> None:
    ds = traces(n=5)
    parts = [segment_mass(ds, name) for name in ds["segment"].attrs["flag_meanings"].split()]
    np.testing.assert_allclose(sum(part.values for part in parts), 1.0, atol=1e-5)
    with pytest.raises(InterpError, match="'sky' is unknown"):
        segment_mass(ds, "sky")


def test_the_cluster_interval_agrees_with_scipy_and_widens_when_samples_are_copies() -> None:
    values = np.random.default_rng(0).random(60)
    alone = mean_interval(xr.DataArray(values, dims="sample"), xr.DataArray(np.arange(60), dims="sample"), n_resamples=9999)
    reference = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert alone["interval"].values == pytest.approx([reference.low, reference.high], abs=0.01)
    assert alone["interval"].dims == ("ci_bound",) and alone["ci_bound"].values.tolist() == ["lower", "upper"]
    copies = mean_interval(xr.DataArray(np.repeat(values, 4), dims="sample"), xr.DataArray(np.repeat(np.arange(60), 4), dims="sample"))
    width = float(copies["interval"][1] - copies["interval"][0])
    assert width == pytest.approx(float(alone["interval"][1] - alone["interval"][0]), rel=0.1)


def test_figures_hold_the_data_they_were_given() -> None:
    from PIL import Image

    ds = traces(n=4)
    sample = ds.isel(sample=0)
    width, height = (int(v) for v in sample["image_size"].values[0])
    picture = Image.new("RGB", (width, height))
    figure = interp.plots.attention_over_image(sample, picture, layers=[0, 3])
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 2 and all(np.isfinite(np.asarray(h.z, float)).any() for h in heat)
    token = int(np.flatnonzero(~np.isnan(sample["token_box"].values[:, 0]))[7])  # the pixel in the middle of some token's region
    x, y = (sample["token_box"].values[token].reshape(2, 2).mean(axis=0)).astype(int)
    assert np.asarray(heat[1].z, float)[y, x] == pytest.approx(float(sample["attention"].sel(layer=3).mean("head")[token]))
    mass = segment_mass(ds).assign_attrs(ds.attrs)
    line = interp.plots.mass_by_layer(mass).data[1]
    np.testing.assert_allclose(np.asarray(line.y, float), mass.mean(["sample", "head"]).values)
    with pytest.raises(InterpError, match="one sample"):
        interp.plots.attention_over_image(ds, picture)


def test_an_interval_needs_two_pictures_with_a_value() -> None:
    clusters = xr.DataArray(["a", "a", "b", "c"], dims="sample", name="image_id")
    table = xr.DataArray([[1, 1, np.nan], [2, 2, np.nan], [np.nan, 5, np.nan], [np.nan, np.nan, np.nan]], dims=("sample", "layer"))
    found = mean_interval(table, clusters)
    np.testing.assert_allclose(found["mean"], [1.5, 8 / 3, np.nan])
    assert found["n"].values.tolist() == [2, 3, 0]
    np.testing.assert_allclose(found["interval"], [[np.nan, 1.5, np.nan], [np.nan, 5.0, np.nan]])  # only a, and only b, drawn
