"""Ranking metrics against scikit-learn, chance levels by enumeration, and their labelled forms over traces, in memory and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

import interp.analysis as analysis
from interp.analysis import auprc, auroc, evidence_labels, evidence_ratio, grounding, ndcg, pointing, profile_layers, profiled_map, rapt
from interp.analysis.auroc import auroc_kernel
from interp.analysis.blocks import blocks, streamed
from interp.analysis.grounding import auprc_kernel, evidence_ratio_kernel, ndcg_kernel, pointing_kernel
from interp.errors import InterpError
from interp.geometry import paint
from interp.testing import traces

KERNELS = {
    "auroc": auroc_kernel,
    "auprc": auprc_kernel,
    "ndcg": ndcg_kernel,
    "pointing": pointing_kernel,
    "evidence_ratio": evidence_ratio_kernel,
}


def _pointing(labels: NDArray, scores: NDArray) -> float:
    best = [label for label, score in zip(labels, scores, strict=True) if score == max(scores)]
    return sum(best) / len(best)


def _ratio(labels: NDArray, scores: NDArray) -> float:
    inside = [float(score) for label, score in zip(labels, scores, strict=True) if label]
    outside = [float(score) for label, score in zip(labels, scores, strict=True) if not label]
    return (sum(inside) / len(inside)) / (sum(outside) / len(outside))


ORACLES: dict[str, Callable[[NDArray, NDArray], float]] = {
    "auroc": lambda labels, scores: float(roc_auc_score(labels, scores)),
    "auprc": lambda labels, scores: float(average_precision_score(labels, scores)),
    "ndcg": lambda labels, scores: float(ndcg_score([labels], [scores])),
    "pointing": _pointing,
    "evidence_ratio": _ratio,
}


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 40), tied=st.booleans(), kind=st.sampled_from(["float16", "float32", "float64"]))
def test_every_metric_equals_scikit_learn_at_every_precision(name: str, seed: int, n: int, tied: bool, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(1, 4, (2, 3, n)) if tied else rng.random((2, 3, n)) + 0.01).astype(kind)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    labels = (rng.random((2, 1, n)) < rng.choice([0.1, 0.5])).astype(float)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    found = KERNELS[name](scores, labels)
    assert found.shape == (2, 3)
    for k in np.ndindex(2, 3):
        marks, row = labels[k[0], 0], scores[k].astype(np.float64)
        kept = ~np.isnan(marks) & ~np.isnan(row)
        marks, row = marks[kept], row[kept]
        if len(np.unique(marks)) == 2:
            assert found[k] == pytest.approx(ORACLES[name](marks, row), abs=1e-9)
        elif marks.sum() == 0 or name in ("auroc", "evidence_ratio"):
            assert np.isnan(found[k])
        else:
            assert found[k] == pytest.approx(1.0)  # all are positives


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_signs_zeros_and_infinities_rank_as_numbers_do(kind: str) -> None:
    scores = np.array([-np.inf, -3.0, -0.0, 0.0, 1e-30, 2.0, np.inf], dtype=kind)
    for positives in combinations(range(7), 3):
        labels = np.isin(np.arange(7), positives).astype(float)
        finite = np.array([-9.0, -3.0, 0.0, 0.0, 1e-30, 2.0, 9.0])
        assert auroc_kernel(scores, labels) == pytest.approx(roc_auc_score(labels, finite))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 60))
def test_rankings_do_not_change_under_a_monotone_map_and_turn_with_the_labels(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 9, (5, n)) / 8, np.r_[1.0, 0.0, rng.integers(0, 2, n - 2)]
    for name in ("auroc", "auprc", "ndcg", "pointing"):
        np.testing.assert_allclose(KERNELS[name](np.exp(3 * scores), labels), KERNELS[name](scores, labels), atol=1e-12)
    np.testing.assert_allclose(auroc_kernel(scores, 1 - labels), 1 - auroc_kernel(scores, labels), atol=1e-12)
    np.testing.assert_allclose(auroc_kernel(-scores, labels), 1 - auroc_kernel(scores, labels), atol=1e-12)
    np.testing.assert_allclose(evidence_ratio_kernel(7 * scores + 1, labels), evidence_ratio_kernel(scores + 1 / 7, labels))


def test_rows_beyond_one_batch_and_any_broadcasting_give_what_single_rows_give() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((700, 300)).astype(np.float32), rng.integers(0, 2, (2, 1, 300)).astype(float)
    found = auroc_kernel(scores, labels)
    assert found.shape == (2, 700)
    for k, row in [(0, 0), (1, 435), (1, 436), (1, 437), (0, 699)]:
        assert found[k, row] == pytest.approx(roc_auc_score(labels[k, 0], scores[row]), abs=1e-9)
    strided = np.asfortranarray(scores)[::3]
    np.testing.assert_array_equal(auroc_kernel(strided, labels[0, 0]), found[0, ::3])
    with pytest.raises(ValueError, match="differ along the last axis"):
        auroc_kernel(scores, labels[..., :1])


@pytest.mark.parametrize(("n", "n1"), [(5, 1), (6, 2), (7, 4), (4, 3)])
def test_chance_levels_are_means_over_all_rankings(n: int, n1: int) -> None:
    scores = np.arange(n)[::-1].astype(float)
    every = np.array([np.isin(np.arange(n), places) for places in combinations(range(n), n1)], dtype=float)
    coverage = xr.DataArray(np.where(np.arange(n) < n1, 1.0, 0.0)[None], dims=("sample", "token"))
    attention = xr.DataArray(np.broadcast_to(scores, (1, 1, 1, n)).copy(), dims=("sample", "layer", "head", "token"))
    result = grounding(xr.Dataset({"attention": attention, "coverage": coverage}))
    for name in ("auprc", "ndcg", "pointing"):
        assert float(result[f"{name}_chance"][0]) == pytest.approx(KERNELS[name](scores, every).mean(), abs=1e-12)


def test_grounding_holds_every_metric_at_both_levels() -> None:
    ds = traces(n=6, n_layers=3, n_heads=2, seed=4)
    labels = evidence_labels(ds["coverage"]).values
    for level, dims in (("layer", ("sample", "layer")), ("head", ("sample", "layer", "head"))):
        result = grounding(ds, level=level)  # type: ignore[arg-type]
        attention = ds["attention"].mean("head").values if level == "layer" else ds["attention"].values
        for name, oracle in ORACLES.items():
            assert result[name].dims == dims and result[name].attrs["units"] == "1" and result[name].attrs["long_name"]
            for k in np.ndindex(*result[name].shape):
                kept = ~np.isnan(labels[k[0]])
                expected = oracle(labels[k[0]][kept], attention[k][kept])
                assert float(result[name].values[k]) == pytest.approx(expected, rel=1e-6)
        assert result.attrs["n_undefined"] == 0 and result.attrs["overlap_rule"] == "any" and result.attrs["model"] == "synthetic/4"
    alone = {"auroc": auroc, "auprc": auprc, "ndcg": ndcg, "pointing": pointing, "evidence_ratio": evidence_ratio}
    heads = grounding(ds, level="head", rule="half")
    for name, metric in alone.items():
        xr.testing.assert_allclose(metric(ds["attention"], ds["coverage"], "half"), heads[name], rtol=1e-12)


def test_samples_without_contrast_are_counted_and_unreachable_heads_are_left_out() -> None:
    ds = traces(n=6, n_layers=3, n_heads=2, seed=1)
    coverage = ds["coverage"].copy()
    coverage[1] = coverage[1] * 0
    coverage[2] = coverage[2] * 0 + 1
    attention = ds["attention"].copy()
    image = (ds["segment"] == 1).values
    attention.values[:, 1] = np.where(image[:, None, :], np.nan, attention.values[:, 1])
    part = ds.assign(coverage=coverage, attention=attention)
    result = grounding(part, level="head")
    assert result.attrs["n_undefined"] == 2
    for name in KERNELS:
        assert result[name][[1, 2]].isnull().all() and result[name].isel(layer=1).isnull().all()
        assert result[name].isel(sample=[0, 3, 4, 5], layer=[0, 2]).notnull().all()
    assert result["ndcg_chance"].isnull().values.tolist() == [False, True, True, False, False, False]
    profile = profile_layers(part, fraction=0.9)
    assert profile.layers == (0, 2) and np.isnan(profile.auroc[1]) and profile.n_undefined == 2 and len(profile.heads) == 4
    blind = ds.assign(coverage=ds["coverage"] * 0)
    for refuse in (grounding, profile_layers, lambda d: ndcg(d["attention"], d["coverage"])):
        with pytest.raises(InterpError, match="No sample has an evidence token"):
            refuse(blind)


def test_views_are_ranked_together_or_each_by_itself() -> None:
    ds = traces(n=3, n_layers=2, n_heads=2, seed=2)
    half = ds["view"].where((ds["view"] < 0) | (ds["row"] < 3), 1)
    ds = ds.assign_coords(view=half)
    each = grounding(ds, views="each")
    assert each["auroc"].dims == ("sample", "layer", "view") and each["view"].values.tolist() == [0, 1]
    for view in (0, 1):
        alone = auroc(ds["attention"].mean("head"), ds["coverage"].where(half == view))
        np.testing.assert_allclose(each["auroc"].sel(view=view).values, alone.values, equal_nan=True)
    np.testing.assert_allclose(grounding(ds)["auroc"].values, auroc(ds["attention"].mean("head"), ds["coverage"]).values)


def _two_views(seed: int) -> tuple[xr.Dataset, list[NDArray], list[NDArray]]:
    """A sample of two pictures, tokens on whole pixels: cells of 4 over all but the right 5 columns of a picture, and over its upper left
    cells of 2 beside them. Also, of each picture, the map of every layer and head (layer, head, y, x) and where the evidence is (y, x).
    """
    rng = np.random.default_rng(seed)
    sizes, boxes, images = [(21, 16), (13, 12)], [np.full((3, 4), np.nan)], [np.full(3, -1)]
    for image, (width, height) in enumerate(sizes):
        for step, right, low in ((4, width - 5, height), (2, 8, 8)):
            y, x = (each.ravel() for each in np.mgrid[:low:step, :right:step])
            boxes.append(np.stack([x, y, x + step, y + step], axis=1).astype(float))
            images.append(np.full(len(x), image))
    box, image = np.concatenate(boxes), np.concatenate(images)
    attention = rng.integers(1, 9, (1, 2, 2, len(box))).astype(np.float32) / 8
    attention[0, 1, :, (image == 1) & (box[:, 0] >= 4)] = np.nan  # beyond a window
    marked = np.array([[3, 2, 9, 7], [6, 6, 12, 9], [2, 1, 7, 5], [0, 0, 3, 3]], dtype=float)
    on, roles = np.array([0, 0, 1, 0]), ["evidence", "evidence", "evidence", "distractor"]
    maps, truths = [], []
    for number, (width, height) in enumerate(sizes):
        total, weight, truth = np.zeros((2, 2, height, width)), np.zeros((2, 2, height, width)), np.zeros((height, width))
        for k in np.flatnonzero(image == number):
            x0, y0, x1, y1 = box[k].astype(int)
            value = attention[0, :, :, k, None, None].astype(float)
            total[..., y0:y1, x0:x1] += np.nan_to_num(value)
            weight[..., y0:y1, x0:x1] += ~np.isnan(value)
        for corners, at, role in zip(marked.astype(int), on, roles, strict=True):
            if at == number and role == "evidence":
                truth[corners[1] : corners[3], corners[0] : corners[2]] = 1
        truth[:, width - 5 :] = np.nan
        with np.errstate(invalid="ignore"):
            maps.append(total / weight)
        truths.append(truth)
    texts = np.dtypes.StringDType()
    ds = xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "token"), attention),
            "coverage": (("sample", "token"), np.where(np.isnan(box[:, 0]), np.nan, 0.5)[None]),
            "evidence_box": (("sample", "evidence", "corner"), marked[None]),
            "evidence_image": (("sample", "evidence"), on[None]),
            "evidence_role": (("sample", "evidence"), np.array([roles], dtype=texts)),
            "image_size": (("sample", "image", "axis"), np.array([sizes])),
        },
        coords={"token_box": (("sample", "token", "corner"), box[None]), "image_index": (("sample", "token"), image[None])},
    )
    return ds, maps, truths


@pytest.mark.parametrize("level", ["layer", "head"])
def test_painted_views_rank_the_pixels_of_all_pictures(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, maps, truths = _two_views(3)
    every = np.concatenate([one.reshape(2, 2, -1) for one in maps], axis=-1)
    every = every.mean(axis=1) if level == "layer" else every
    truth = np.concatenate([one.ravel() for one in truths])
    for at_once in (1, 1 << 24):  # a layer at a time, and all together
        monkeypatch.setattr("interp.analysis.painted._AT_ONCE", at_once)
        found = grounding(ds, level=level, views="painted")  # type: ignore[arg-type]
        assert found.attrs["views"] == "painted" and found["auroc"].dims == ("sample", "layer", "head")[: every.ndim]
        for name, oracle in ORACLES.items():
            for k in np.ndindex(*every.shape[:-1]):
                kept = ~np.isnan(every[k]) & ~np.isnan(truth)
                expected = oracle(truth[kept], every[k][kept].astype(np.float32))
                assert float(found[name].values[0][k]) == pytest.approx(expected, rel=1e-6), (name, k)
        assert float(found["pointing_chance"][0]) == pytest.approx(np.nanmean(truth)) and found["pointing_chance"].dims == ("sample",)
        assert found["auprc_chance"].isnull().all() and found["auprc_chance"].attrs["units"] == "1"
        assert all("pixels" in found[name].attrs["long_name"] for name in KERNELS if name != "pointing")


@pytest.mark.parametrize(("rule", "n"), [("any", 25), ("half", 21), ("all", 9)])
def test_a_pixel_counts_by_its_share(rule: str, n: int) -> None:
    ds, _, truths = _two_views(3)
    box = ds["evidence_box"].copy()
    box[0, :] = [0.4, 0.4, 0.4, 0.4]
    box[0, 2] = [0.4, 0.4, 4.6, 4.6]  # on the second picture; the others of the first are empty
    found = grounding(ds.assign(evidence_box=box), rule=rule, views="painted")  # type: ignore[arg-type]
    seen = sum(int(np.isfinite(truth).sum()) for truth in truths)
    half = {"any": 25, "half": sum(w * h >= 0.5 for w in (0.6, 1, 1, 1, 0.6) for h in (0.6, 1, 1, 1, 0.6)), "all": 9}
    assert half[rule] == n and float(found["pointing_chance"][0]) * seen == pytest.approx(n)


def test_painting_takes_layers_in_any_order_or_one_alone() -> None:
    ds, *_ = _two_views(5)
    whole = grounding(ds, views="painted")
    xr.testing.assert_allclose(grounding(ds.transpose("layer", "sample", ...), views="painted"), whole)
    xr.testing.assert_allclose(grounding(ds.isel(layer=0), views="painted")["auroc"], whole["auroc"].isel(layer=0))
    heads = grounding(ds, "head", views="painted")["auroc"]
    xr.testing.assert_allclose(grounding(ds.isel(layer=1), "head", views="painted")["auroc"], heads.isel(layer=1))


def test_painting_several_maps_paints_each() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 20, (30, 2))
    boxes, values = np.concatenate([low, low + rng.uniform(0.2, 9, (30, 2))], axis=1), rng.random((2, 3, 30))
    values[rng.random(values.shape) < 0.3] = np.nan
    boxes[4] = np.nan
    together = paint(values, boxes, (24, 19))
    assert together.shape == (2, 3, 19, 24)
    for k in np.ndindex(2, 3):
        np.testing.assert_array_equal(together[k], paint(values[k], boxes, (24, 19)))
        kept = ~np.isnan(values[k])
        np.testing.assert_array_equal(together[k], paint(values[k][kept], boxes[kept], (24, 19)))
    with pytest.raises(ValueError, match="shorter"):
        paint(values, boxes[:-1], (24, 19))


def test_rapt_is_the_ratio_of_means_in_every_section() -> None:
    ds = traces(n=5, n_layers=3, n_heads=2, seed=7)
    roles = ds["evidence_role"].values.astype(object)
    roles[0, roles[0] == "distractor"] = "anchor"
    ds["evidence_role"] = (ds["evidence_role"].dims, roles.astype(np.dtypes.StringDType()))
    ds["attention"][3, 2, :, :5] = np.nan  # a window that does not reach the first tokens
    found = rapt(ds, level="head")
    assert found.dims == ("sample", "layer", "head", "section") and found.attrs["units"] == "1"
    names = ds["segment"].attrs["flag_meanings"].split()
    for sample in range(5):
        one = ds.isel(sample=sample)
        boxes, share = one["token_box"].values, one["coverage"].values
        marked = one["evidence_box"].values

        def touched(role: str, sample: int = sample, boxes: NDArray = boxes, marked: NDArray = marked) -> list[bool]:
            return [
                any(
                    r == role and not np.isnan(t[0]) and max(b[0], t[0]) < min(b[2], t[2]) and max(b[1], t[1]) < min(b[3], t[3])
                    for r, b in zip(roles[sample], marked, strict=True)
                )
                for t in boxes
            ]

        members = {name: (one["segment"].values == names.index(name)).tolist() for name in names}
        members |= {"evidence": (share > 0).tolist(), "non-evidence": (share == 0).tolist()}
        members |= {role: touched(role) for role in ("anchor", "distractor")}
        for layer, head in np.ndindex(3, 2):
            row = one["attention"].values[layer, head].astype(float)
            known = [value for value in row if not np.isnan(value)]
            for section in found["section"].values:
                inside = [value for value, member in zip(row, members[section], strict=True) if member and not np.isnan(value)]
                value = float(found.sel(section=section)[sample, layer, head])
                if inside:
                    assert value == pytest.approx(np.mean(inside) / np.mean(known), rel=1e-5), section
                else:
                    assert np.isnan(value), section
    assert found.sel(section="anchor")[0].notnull().all() and found.sel(section="anchor")[1:].isnull().all()
    whole = ds.isel(sample=[0, 1, 2, 4])
    np.testing.assert_allclose(rapt(whole).values, rapt(whole, level="head").mean("head").values, rtol=1e-5, equal_nan=True)


def test_rapt_compares_evidence_with_the_rest_only_where_there_is_evidence() -> None:
    ds = traces(n=3, seed=5)
    coverage = ds["coverage"].copy()
    coverage[1] = coverage[1] * 0
    found = rapt(ds.assign(coverage=coverage))
    assert found.sel(section=["evidence", "non-evidence"])[1].isnull().all()
    assert found.sel(section=["evidence", "non-evidence", "image"])[[0, 2]].notnull().all() and found.sel(section="image").notnull().all()


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_stored_trace_gives_the_same_in_any_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: dict | None) -> None:
    ds = traces(n=7, n_layers=3, n_heads=2, seed=6)
    ds["attention"] = ds["attention"].astype(np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's notes on the age of its format
        ds.to_zarr(tmp_path / "t.zarr")
    stored = xr.open_zarr(tmp_path / "t.zarr", chunks=chunks, consolidated=True)
    tried = {
        "grounding": lambda d: grounding(d, level="head"),
        "each": lambda d: grounding(d, views="each"),
        "painted": lambda d: grounding(d, views="painted"),
        "auroc": lambda d: auroc(d["attention"], d["coverage"]),
        "rapt": rapt,
        "mass": analysis.segment_mass,
        "map": lambda d: profiled_map(d, profile_layers(d, 0.5)).reset_coords(drop=True).to_dataset(name="map"),
    }
    whole = {name: call(ds.assign(attention=ds["attention"].astype(np.float32))) for name, call in tried.items()}
    monkeypatch.setattr(blocks, "__kwdefaults__", {"budget": 2 * ds["attention"][0].size * 4})
    monkeypatch.setattr(streamed, "__kwdefaults__", {"budget": 2 * ds["attention"][0].size * 4})
    assert [block.sizes["sample"] for block in blocks(stored, "attention")] == [2, 2, 2, 1]
    for name, call in tried.items():
        xr.testing.assert_allclose(call(stored).reset_coords(drop=True), whole[name].reset_coords(drop=True), rtol=1e-5)
    assert not stored["attention"].variable._in_memory  # a block that is done is let go


def test_bad_input_gets_one_sentence() -> None:
    ds = traces(n=3)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: grounding(ds, level="block"), "level='block' is unknown"),  # type: ignore[arg-type]
        (lambda: grounding(ds, views="some"), "views='some' is unknown"),  # type: ignore[arg-type]
        (lambda: grounding(ds, rule="most"), "'most' is unknown"),  # type: ignore[arg-type]
        (lambda: rapt(ds, level="model"), "level='model' is unknown"),  # type: ignore[arg-type]
        (lambda: rapt(ds.isel(sample=0)), "no dimension 'sample'"),
        (lambda: rapt(ds.isel(sample=[])), "holds no samples"),
        (lambda: grounding(ds.drop_vars("attention")), "no variable 'attention'"),
        (lambda: auroc(ds["attention"][:2], ds["coverage"]), "not of the same samples"),
    ]
    for call, sentence in bad:
        with pytest.raises(InterpError, match=sentence):
            call()
