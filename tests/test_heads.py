"""The taxonomy of heads, against plain loops and hand-made maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

import interp
from interp.analysis import head_measures, head_taxonomy, layer_matched, random_heads
from interp.analysis.heads import spatial_entropy
from interp.capture.sinks import sinks
from interp.errors import InterpError
from interp.testing import planted, samples, tiny_vlm, traces


def flood(mask: np.ndarray) -> list[int]:
    """Sizes of 8-neighbour components, by walking."""
    left, sizes = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        todo, size = [left.pop()], 0
        while todo:
            r, c = todo.pop()
            size += 1
            near = {(r + a, c + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        sizes.append(size)
    return sizes


def test_spatial_entropy_counts_components() -> None:
    one, corners = np.zeros((4, 4)), np.zeros((4, 4))
    one[1:3, 1:3] = 1
    corners[[0, 0, 3, 3], [0, 3, 0, 3]] = 1
    assert spatial_entropy(one) == 0
    assert spatial_entropy(corners) == pytest.approx(np.log(4))
    assert spatial_entropy(np.eye(4)) == 0, "a diagonal is one component of 8 neighbours"
    assert np.isnan(spatial_entropy(np.zeros((4, 4))))
    for seed in range(20):
        map_ = np.random.default_rng(seed).random((7, 9)) ** 3
        shares = np.array(flood(map_ > map_.mean())) / (map_ > map_.mean()).sum()
        assert spatial_entropy(map_) == pytest.approx(float(-(shares * np.log(shares)).sum()))


@pytest.fixture(scope="module")
def trace() -> xr.Dataset:
    return planted(40, seed=3, n_layers=4, n_heads=4)


@pytest.fixture(scope="module")
def measures(trace: xr.Dataset) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (40, 4, 4)
    effect = xr.DataArray(rng.normal(size=shape), dims=("sample", "layer", "head"), coords={"sample": trace["sample"]}).isel(
        sample=slice(None, None, -1)
    )
    sunk = xr.DataArray(
        rng.random((40, 4, trace.sizes["token"])) < 0.1, dims=("sample", "layer", "token"), coords={"sample": trace["sample"]}
    )
    return head_measures(trace, sunk, {"delta_logprob": effect}).assign_attrs(sunk=sunk.values, effect=effect.values[::-1])


def test_measures_equal_a_plain_loop(trace: xr.Dataset, measures: xr.Dataset) -> None:
    attention, coverage = trace["attention"].values, trace["coverage"].values
    for k, layer, head in [(0, 1, 2), (7, 3, 0), (21, 0, 3)]:
        row, on_picture = attention[k, layer, head], ~np.isnan(coverage[k])
        on_evidence = on_picture & (np.nan_to_num(coverage[k]) > 0)
        got = measures.isel(sample=k, layer=layer, head=head)
        assert float(got["image_mass"]) == pytest.approx(row[on_picture].sum(), rel=1e-5)
        assert float(got["evidence_share"]) == pytest.approx(row[on_evidence].sum() / row[on_picture].sum(), rel=1e-5)
        assert float(got["sink_share"]) == pytest.approx(
            row[on_picture & measures.attrs["sunk"][k, layer]].sum() / row[on_picture].sum(), rel=1e-5
        )
        map_ = row[on_picture].reshape(8, 8)
        shares = np.array(flood(map_ > map_.mean())) / (map_ > map_.mean()).sum()
        assert float(got["spatial_entropy"]) == pytest.approx(float(-(shares * np.log(shares)).sum()))
    np.testing.assert_array_equal(measures["delta_logprob"], measures.attrs["effect"])


def test_sinks_may_come_from_a_longer_benchmark(trace: xr.Dataset, measures: xr.Dataset) -> None:
    """Samples are matched by name, and the longest prompt of all of them decides how wide `sinks` is."""
    dims = ("sample", "layer", "token")
    sunk = xr.DataArray(measures.attrs["sunk"], dims=dims, coords={"sample": trace["sample"]})
    for width in (-3, 5):
        cut = sunk.isel(token=slice(None, width)) if width < 0 else sunk.pad(token=(0, width), constant_values=False)
        found = head_measures(trace, cut)["sink_share"]
        expected = head_measures(trace, sunk.where(sunk["token"] < cut.sizes["token"], False))["sink_share"]
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InterpError, match="has 3 layers and the trace 4"):
        head_measures(trace, sunk.isel(layer=slice(3)))


def test_selection_keeps_to_both_criteria(measures: xr.Dataset) -> None:
    mean = measures["image_mass"].mean("sample").values
    able = mean >= measures.attrs["image_mass_threshold"]
    able[:2] = False
    chosen = measures["selected"].values
    assert not chosen[:, ~able].any() and able.any()
    assert (chosen.sum((1, 2)) == min(10, able.sum())).all()
    few = head_measures(planted(6, seed=4), n_selected=1)
    for k in range(6):
        entropy = np.where(few["selected"].values.any(0) | able, few["spatial_entropy"].values[k], np.inf)
        assert few["selected"].values[k].sum() == 1
        assert few["spatial_entropy"].values[k][few["selected"].values[k] == 1] <= np.nanmax(entropy)


def test_the_taxonomy_ranks_like_scipy(measures: xr.Dataset) -> None:
    found = head_taxonomy(measures, n_resamples=60)
    assert found["grounding"].dims == ("layer", "head")
    for one, other in (("grounding", "evidence_share"), ("image_mass", "delta_logprob")):
        expected = spearmanr(measures[one].mean("sample").values.ravel(), measures[other].mean("sample").values.ravel())[0]
        got = found.sel(measure=one, other=other)
        assert float(got["rank_correlation"]) == pytest.approx(expected)
        low, high = got["rank_correlation_interval"].values
        assert low <= expected <= high or high - low < 0.2
        assert int(got["n_heads"]) == 16
    assert found["rank_correlation"].sel(measure="grounding", other="evidence_share") > 0.6, "both ask who looks at the evidence"
    assert abs(float(found["rank_correlation"].sel(measure="grounding", other="delta_logprob"))) < 0.75, "a random effect"


def test_bad_measures_are_refused(trace: xr.Dataset) -> None:
    with pytest.raises(InterpError, match="must be \\(sample, layer, token\\)"):
        head_measures(trace, trace["attention"])
    with pytest.raises(InterpError, match="Effect 'x' has dimensions"):
        head_measures(trace, effects={"x": trace["exact_match"]})
    with pytest.raises(InterpError, match="is not in effect 'x'"):
        head_measures(trace, effects={"x": trace["attention"].isel(token=0, drop=True).isel(sample=slice(3))})


def test_matched_heads_have_the_same_layers_and_no_member_of_the_set() -> None:
    chosen = np.array([[0, 1], [0, 2], [3, 0]])
    draws = layer_matched(chosen, 8, 50, avoid=np.array([[3, 1]]))
    assert draws.shape == (50, 3, 2)
    assert (draws[..., 0] == chosen[:, 0]).all()
    seen = {tuple(head) for head in draws.reshape(-1, 2).tolist()}
    assert not seen & {(0, 1), (0, 2), (3, 0), (3, 1)} and len(seen) > 8
    assert all(len({tuple(h) for h in draw.tolist()}) == 3 for draw in draws)
    np.testing.assert_array_equal(draws, layer_matched(chosen, 8, 50, avoid=np.array([[3, 1]])))


def test_a_control_shares_no_more_heads_with_its_set_than_it_must() -> None:
    crowded = np.array([[0, head] for head in range(5)])
    for draw in layer_matched(crowded, 8, 30):
        assert len({tuple(head) for head in draw.tolist()}) == 5
        assert (draw[:, 1] < 5).sum() == 2, "three others are all there are"
    for draw in layer_matched(crowded[:3], 8, 30, avoid=crowded[:4]):
        assert set(draw[:, 1]) <= {4, 5, 6, 7} and 3 not in draw[:, 1]
    for draw in layer_matched(crowded[:4], 8, 30, avoid=np.array([[0, 4]])):
        assert sorted(draw[:, 1]) == [4, 5, 6, 7], "the avoided head rather than one of the set"
    for n, shared in ((3, 0), (11, 0), (13, 2)):
        draws = random_heads(n, 2, 8, 30, avoid=crowded)
        assert draws.shape == (30, n, 2)
        for draw in draws.tolist():
            assert len({tuple(head) for head in draw}) == n
            assert sum(layer == 0 and head < 5 for layer, head in draw) == shared
    assert len({layer for layer, _ in random_heads(3, 2, 8, 30, avoid=crowded).reshape(-1, 2).tolist()}) == 2
    with pytest.raises(InterpError, match="17 heads cannot be chosen of 2 x 8"):
        random_heads(17, 2, 8, 1)


def test_sinks_are_tokens_of_one_enormous_feature() -> None:
    vlm, bench = tiny_vlm(), samples(2)

    def spike(_: Any, __: Any, output: Any) -> Any:
        output = output.clone()
        output[:, 3, 5] = 1e4
        return output

    handle = vlm.layers[1].register_forward_hook(spike)
    found = sinks(vlm, bench)
    handle.remove()
    assert found.dims == ("sample", "layer", "token") and not found[:, :2].any()
    assert found[:, 2:, 3].all()
    assert not sinks(vlm, bench)[:, 2, 3].any()
    ds = interp.trace(vlm, bench, answers=False)
    assert found.sizes["token"] == ds.sizes["token"]
    assert 0 < float(head_measures(ds, found)["sink_share"][:, 2:].mean()) < 1


def test_layers_that_cannot_see_the_picture_have_no_measure() -> None:
    ds = traces(8)
    blind = ds["attention"].where(~((ds["layer"] == 1) & (ds["segment"] == 1)))
    found = head_measures(ds.assign(attention=blind))
    assert found["grounding"][:, 1].isnull().all() and found["evidence_share"][:, 1].isnull().all()
    assert head_taxonomy(found, n_resamples=20)["n_heads"].sel(measure="grounding", other="image_mass") == 20
