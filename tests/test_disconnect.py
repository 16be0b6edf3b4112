"""Null boxes by their definition, verdicts against scikit-learn, and the disconnect table against counting."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp.analysis.auroc import OverlapRule, evidence_labels
from interp.analysis.disconnect import OUTCOMES, REASONS, disconnect
from interp.analysis.nulls import BoxSet, Tokens
from interp.analysis.profile import Profile, profile_layers, profiled_map
from interp.analysis.seen import seen
from interp.errors import InterpError
from interp.geometry import area, coverage, overlap_with_union
from interp.testing import planted


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profile_layers(planted(n=40, seed=77), fraction=0.5)


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return planted(n=60, seed=5)


def _grid(width: float, height: float, side: int, left: float = 0.0) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(left, left + width, side + 1), np.linspace(0, height, side + 1))
    return np.stack([x[:-1, :-1], y[:-1, :-1], x[1:, 1:], y[1:, 1:]], axis=-1).reshape(-1, 4)


def _tokens() -> Tokens:
    """Two pictures: the middle of one of 100 x 60, all of one of 50 x 50."""
    boxes = np.concatenate([_grid(60, 60, 5, left=20), _grid(50, 50, 4)])
    images = np.repeat([0, 1], [25, 16])
    return Tokens.of(boxes, images, np.array([[100.0, 60.0], [50.0, 50.0]]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
def test_parts_are_the_union_without_overlap_inside_what_is_seen(seed: int, n: int, nested: bool) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 40, (n, 2)).astype(np.float64)
    boxes = np.concatenate([corner, corner + rng.integers(1, 40, (n, 2)).astype(np.float64)], axis=1)
    if nested:
        boxes = np.concatenate([boxes, boxes + np.array([0.25, 0.25, -0.25, -0.25])])
    tokens = _tokens()
    parts = BoxSet.of(boxes, np.zeros(len(boxes), dtype=int), tokens)
    whole = tokens.boxes[tokens.images == 0]
    np.testing.assert_allclose(overlap_with_union(whole, parts.boxes), overlap_with_union(whole, boxes), atol=1e-9)
    assert area(parts.boxes).sum() == pytest.approx(overlap_with_union(whole, boxes).sum())
    if nested and n == 1:
        assert len(parts.boxes) <= 1


def test_copies_keep_their_shape_stay_inside_and_off_and_differ() -> None:
    tokens = _tokens()
    boxes = np.array([[40.0, 10, 52, 22], [46, 16, 58, 28], [3, 4, 15, 20]])
    evidence = BoxSet.of(boxes, np.array([0, 0, 1]), tokens)
    found = evidence.copies(tokens, 200, np.random.default_rng(0), off=True)
    assert len(found) == 200 and len(np.unique(found.reshape(200, -1), axis=0)) == 200
    moved = found - evidence.boxes
    assert (moved == np.round(moved)).all()
    for image in (0, 1):
        mine = found[:, evidence.images == image]
        shift = moved[:, evidence.images == image]
        np.testing.assert_array_equal(shift, np.broadcast_to(np.tile(shift[:, :1, :2], 2), shift.shape))  # together
        left, top, right, bottom = tokens.extent(image)
        assert mine[..., 0].min() >= left and mine[..., 1].min() >= top and mine[..., 2].max() <= right and mine[..., 3].max() <= bottom
        assert overlap_with_union(mine.reshape(-1, 4), boxes[np.array([0, 0, 1]) == image]).max() == 0
    anywhere = evidence.copies(tokens, 500, np.random.default_rng(0), off=False)
    assert overlap_with_union(anywhere[:, 0], boxes[:2]).max() > 0


def test_no_room_gives_fewer_boxes() -> None:
    tokens = _tokens()
    narrow = BoxSet.of(np.array([[20.0, 0, 78, 29]]), np.array([0]), tokens)
    found = narrow.copies(tokens, 200, np.random.default_rng(0), off=True)
    assert sorted(map(tuple, found[:, 0, :2].tolist())) == [(x, y) for x in (20.0, 21.0, 22.0) for y in (29.0, 30.0, 31.0)]
    large = BoxSet.of(np.array([[20.0, 0, 70, 40]]), np.array([0]), tokens)
    assert len(large.copies(tokens, 200, np.random.default_rng(0), off=True)) == 0


def test_shares_are_the_coverage_of_each_picture() -> None:
    tokens = _tokens()
    sets = np.array([[[33.0, 5, 47, 31], [10, 10, 30, 33]], [[20, 0, 21, 60], [0, 0, 50, 50]]])
    found = tokens.shares(sets, np.array([0, 1]))
    for one, shares in zip(sets, found, strict=True):
        for image, size in enumerate([(100, 60), (50, 50)]):
            mine = tokens.images == image
            np.testing.assert_allclose(shares[mine], coverage(tokens.boxes[mine], one[image], size))


def test_copies_are_apart_where_their_boxes_do_not_overlap() -> None:
    tokens = _tokens()
    evidence = BoxSet.of(np.array([[40.0, 10, 52, 22], [3, 4, 15, 20]]), np.array([0, 1]), tokens)
    copies = evidence.copies(tokens, 40, np.random.default_rng(3), off=False)
    found = evidence.apart(copies, copies)
    expected = [[max(overlap_with_union(a[:1], b[:1])[0], overlap_with_union(a[1:], b[1:])[0]) == 0 for b in copies] for a in copies]
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("rule", ["any", "half", "all"])
def test_the_distractor_null_is_that_of_scikit_learn(ds: xr.Dataset, profile: Profile, rule: OverlapRule) -> None:
    found = seen(ds, profile, rule=rule)
    scores = profiled_map(ds, profile)
    checked = 0
    for k in range(ds.sizes["sample"]):
        visual = ds["segment"].values[k] == 1
        boxes, roles = ds["evidence_box"].values[k], ds["evidence_role"].values[k].astype(object)

        def auroc(box: np.ndarray, k: int = k, visual: np.ndarray = visual) -> float:
            share = xr.DataArray(coverage(ds["token_box"].values[k, visual], [box], (112, 112)), dims="token")
            labels = evidence_labels(share, rule).values
            return roc_auc_score(labels, scores.values[k, visual]) if 0 < labels.sum() < labels.size else np.nan

        own = [auroc(box) for box in boxes[roles == "evidence"]]
        others = np.array([auroc(box) for box in boxes[roles == "distractor"]])
        others = others[~np.isnan(others)]
        verdict = found.sel(null="distractor").isel(sample=k)
        if not own or np.isnan(own[0]) or not others.size:
            assert np.isnan(verdict["seen"]) and np.isnan(verdict["p_value"]) and verdict["n_null"] == 0
            continue
        checked += 1
        assert float(verdict["auroc"]) == pytest.approx(own[0], abs=1e-9)
        assert float(verdict["threshold"]) == pytest.approx(others.max(), abs=1e-9)
        assert float(verdict["seen"]) == (own[0] > others.max() + 1e-12)
        assert float(verdict["p_value"]) == pytest.approx((1 + (others >= own[0] - 1e-12).sum()) / (1 + len(others)))
        assert int(verdict["n_null"]) == len(others) and float(verdict["false_positive_rate"]) == pytest.approx(1 / (len(others) + 1))
    assert checked > (0 if rule == "all" else 40)


def test_an_anchor_is_no_candidate(ds: xr.Dataset, profile: Profile) -> None:
    roles = ds["evidence_role"].values.astype(object)
    first = (roles == "distractor").cumsum(axis=1) == 1
    anchored = ds.assign(evidence_role=(("sample", "evidence"), np.where((roles == "distractor") & first, "anchor", roles)))
    fewer = seen(anchored, profile)["n_null"] - seen(ds, profile)["n_null"]
    asked = ~ds["knob_absent"].values
    assert (fewer.sel(null="distractor").values[asked] == -1).all() and (fewer.sel(null="placed").values == 0).all()


def test_verdicts_on_maps_whose_answer_is_known(ds: xr.Dataset) -> None:
    asked = ds.isel(sample=~ds["knob_absent"].values)
    perfect = seen(asked, None, map=asked["coverage"])
    assert (perfect["auroc"] == 1).all() and (perfect["seen"] == 1).all()
    assert (perfect["n_null"].sel(null="placed") == 200).all()
    np.testing.assert_allclose(perfect["p_value"].sel(null="placed"), 1 / 201)
    blind = seen(asked, None, map=-asked["coverage"])
    assert (blind["auroc"] < 0.5).all() and (blind["seen"] == 0).all()
    flat = seen(asked, None, map=xr.ones_like(asked["coverage"]))
    assert (flat["auroc"] == 0.5).all() and (flat["seen"] == 0).all() and (flat["p_value"] == 1).all()  # ties are not seen
    assert (flat["false_positive_rate"].sel(null="placed") == 0).all()


def test_a_verdict_depends_on_the_sample_and_the_seed_alone(ds: xr.Dataset, profile: Profile) -> None:
    found = seen(ds, profile)
    chosen = [30, 4, 17]
    xr.testing.assert_identical(seen(ds.isel(sample=chosen), profile), found.isel(sample=chosen))
    assert not seen(ds, profile, seed=1)["threshold"].sel(null="placed").equals(found["threshold"].sel(null="placed"))
    monotone = seen(ds, profile, map=xr.apply_ufunc(np.log, profiled_map(ds, profile)) * 3 - 1)
    xr.testing.assert_equal(monotone, found)


def test_what_has_no_evidence_or_no_room_is_undefined(ds: xr.Dataset, profile: Profile) -> None:
    found = seen(ds, profile)
    absent = ds["knob_absent"].values
    assert (
        found["seen"].values[absent].size and np.isnan(found["seen"].values[absent]).all() and (found["n_null"].values[absent] == 0).all()
    )
    wide = ds.isel(sample=[0]).copy(deep=True)
    wide["evidence_box"].values[0, 0] = [0, 0, 112, 70]
    wide["coverage"].values[0, 1:65] = coverage(wide["token_box"].values[0, 1:65], [[0, 0, 112, 70]], (112, 112))
    verdict = seen(wide, profile).isel(sample=0)
    assert np.isnan(verdict["seen"].sel(null="placed")) and verdict["n_null"].sel(null="placed") == 0
    assert not np.isnan(verdict["seen"].sel(null="distractor")) and 0 < float(verdict["auroc"]) < 1


def test_bad_requests_for_verdicts_are_named(ds: xr.Dataset, profile: Profile) -> None:
    with pytest.raises(InterpError, match="n_null=0"):
        seen(ds, profile, n_null=0)
    with pytest.raises(InterpError, match="Neither a profile nor a map"):
        seen(ds, None)
    with pytest.raises(InterpError, match="the trace has 60 samples of 71 tokens"):
        seen(ds, profile, map=ds["coverage"].isel(sample=slice(3)))


def test_the_table_counts_what_was_judged(ds: xr.Dataset, profile: Profile) -> None:
    hidden = ds["visibility"].values.astype(object)
    hidden[[0, 1, 4]] = ["cut", "too_small", "lost"]
    right = ds["exact_match"].copy()
    right[6] = np.nan
    read = ds["planted_readable"].astype(float).copy()
    read[[6, 8]] = np.nan
    part = ds.assign_coords(visibility=("sample", hidden))
    found = disconnect(part, profile, read[::-1], correct=right[::-1], n_resamples=100)
    verdicts = seen(part, profile)
    assert found["visibility_count"].sel(visibility=["cut", "too_small", "lost", "none"]).values.tolist() == [1, 1, 1, 6]
    for null in ("placed", "distractor"):
        table = found.sel(null=null)
        assert table["excluded"].sel(reason=list(REASONS)).values.tolist() == [6, 3, 0, 1, 1]
        judged = [k for k in range(60) if not ds["knob_absent"][k] and k not in (0, 1, 4, 6, 8)]
        assert int(table["n"]) == len(judged) == int(table["count"].sum())
        counts: dict[tuple[str, str, str], int] = {}
        for k in judged:
            saw = bool(verdicts["seen"].sel(null=null)[k])
            key = ("seen" if saw else "unseen", "readable" if read[k] else "unreadable", "correct" if right[k] else "wrong")
            counts[key] = counts.get(key, 0) + 1
        for (s, r, c), n in counts.items():
            cell = {"seen": s, "readable": r, "correct": c}
            assert int(table["count"].sel(cell)) == n and float(table["share"].sel(cell)) == pytest.approx(n / len(judged))
        wrong = [k for k in judged if right[k] == 0]
        rates = verdicts["false_positive_rate"].sel(null=null).values[wrong]
        saw_wrong = verdicts["seen"].sel(null=null).values[wrong]
        assert float(table["seen_share"].sel(group="wrong")) == pytest.approx(saw_wrong.mean())
        assert float(table["seen_expected"].sel(group="wrong")) == pytest.approx(rates.mean())
        assert float(table["seen_excess"].sel(group="wrong")) == pytest.approx((saw_wrong - rates).mean())
        assert int(table["seen_n"].sel(group="wrong")) == len(wrong)
        could = read.values[wrong]
        shares = [saw_wrong, saw_wrong * could, saw_wrong * (1 - could), 1 - saw_wrong]
        chances = [rates, rates * could, rates * (1 - could), 1 - rates]
        for name, share, chance in zip(OUTCOMES, shares, chances, strict=True):
            assert float(table["outcome_share"].sel(outcome=name)) == pytest.approx(share.mean())
            assert float(table["outcome_expected"].sel(outcome=name)) == pytest.approx(chance.mean())
    for name, bounds in (("share", "interval"), ("seen_share", "seen_interval"), ("outcome_share", "outcome_interval")):
        low, high = found[bounds].sel(ci_bound="lower"), found[bounds].sel(ci_bound="upper")
        assert bool(((low <= found[name]) & (found[name] <= high)).all())
    assert found.attrs["headline"] == "distractor" and found.attrs["allow_overlap"] == 0


@pytest.mark.parametrize("together", [False, True])
def test_seeing_is_tested_against_the_rates_of_its_own_samples(ds: xr.Dataset, profile: Profile, together: bool) -> None:
    """Exactly: by the distribution of a sum of unlike coins, and where all are of one picture, by one coin for all."""
    right = ds["exact_match"].values
    alone = [f"picture {k}" for k in range(len(right))]
    ds = ds.assign_coords(image_id=("sample", np.where((right == 0) & together, "one", alone).astype(object)))
    found, verdicts = disconnect(ds, profile, n_resamples=20), seen(ds, profile)
    tested = set()
    for null in ("placed", "distractor"):
        one = verdicts.sel(null=null)
        kept = (right == 0) & ~ds["knob_absent"].values & np.isfinite(one["seen"].values)
        total, rates = int(one["seen"].values[kept].sum()), one["false_positive_rate"].values[kept]
        if together:
            ranked = np.concatenate([[1.0], np.sort(rates)[::-1], [0.0]])  # as many are seen as have a rate above the coin
            more, fewer = ranked[total], 1 - ranked[total + 1]
        else:
            chances = np.ones(1)
            for rate in rates:
                chances = np.convolve(chances, [1 - rate, rate])
            more, fewer = chances[total:].sum(), chances[: total + 1].sum()
        expected = min(1.0, 2 * min(more, fewer))
        assert float(found["seen_p"].sel(null=null, group="wrong")) == pytest.approx(expected, abs=0.02)
        tested.add(round(expected, 2))
    assert found["seen_p"].sel(group="correct").notnull().all() and (len(tested) > 1 or not tested & {0.0, 1.0})


def test_without_a_probe_reading_is_unknown(ds: xr.Dataset, profile: Profile) -> None:
    found = disconnect(ds, profile, null="placed", n_resamples=50)
    assert found["readable"].values.tolist() == ["unknown"] and found["null"].values.tolist() == ["placed"]
    assert found["share"].sum() == pytest.approx(1.0)
    assert np.isnan(found["outcome_share"].values[0, 1:3]).all() and found["outcome_share"].values[0, [0, 3]].sum() == pytest.approx(1.0)
    lone = ds.assign(evidence_role=ds["evidence_role"].where(ds["evidence_role"] != "distractor", ""))
    both = disconnect(lone, profile, n_resamples=50)
    assert both.attrs["headline"] == "placed" and both["n"].values.tolist() == [54, 0]
    assert both["excluded"].sel(null="distractor", reason="seen undefined") == 54
    assert both["share"].sel(null="distractor").isnull().all() and both["interval"].sel(null="distractor").isnull().all()


def test_all_answers_right_leaves_the_wrong_ones_undefined(ds: xr.Dataset, profile: Profile) -> None:
    found = disconnect(ds.assign(exact_match=xr.ones_like(ds["exact_match"])), profile, n_resamples=50)
    assert found["outcome_share"].isnull().all() and found["seen_share"].sel(group="wrong").isnull().all()
    assert (found["seen_n"].sel(group="wrong") == 0).all() and found["seen_share"].sel(group="correct").notnull().all()


def test_what_rests_on_one_picture_has_no_interval(ds: xr.Dataset, profile: Profile) -> None:
    asked = np.flatnonzero(~ds["knob_absent"].values)
    right = xr.ones_like(ds["exact_match"])
    right[asked[3]] = 0
    found = disconnect(ds, profile, correct=right, n_resamples=50)
    assert (found["seen_n"].sel(group="wrong") == 1).all() and found["seen_share"].sel(group="wrong").notnull().all()
    for name in ("seen_interval", "excess_interval"):
        assert found[name].sel(group="wrong").isnull().all() and found[name].sel(group="correct").notnull().all()
    assert found["outcome_interval"].isnull().all() and found["interval"].notnull().all()


def test_one_sample_without_knobs_and_layers_without_values(ds: xr.Dataset, profile: Profile) -> None:
    bare = ds.drop_vars([name for name in ds.coords if str(name).startswith("knob_")])
    one = disconnect(bare.isel(sample=[0]), profile, n_resamples=20)
    assert one["n"].values.tolist() == [1, 1] and one["share"].sum(["seen", "readable", "correct"]).values.tolist() == [1, 1]
    assert one["interval"].isnull().all() and one["seen_interval"].isnull().all()
    assert profile.layers == (2, 3)
    blind = bare.assign(attention=bare["attention"].where(bare["layer"] != 2))
    last = seen(bare, replace(profile, layers=(3,)))
    kept = disconnect(blind, profile, n_resamples=20)  # a layer that cannot reach the picture has no say
    judged = last["seen"].sel(null="placed").dropna("sample")
    assert float(kept["seen_share"].sel(null="placed", group="all")) == pytest.approx(float(judged.mean()))
    with pytest.raises(InterpError, match="there is nothing to judge"):
        disconnect(bare.assign(attention=bare["attention"].where(bare["layer"] < 2)), profile)


def test_the_overlap_rule_is_that_of_the_profile(ds: xr.Dataset, profile: Profile) -> None:
    half = replace(profile, rule="half")
    verdicts, others = seen(ds, profile, rule="half"), seen(ds, profile)
    xr.testing.assert_identical(seen(ds, half), verdicts)
    xr.testing.assert_identical(seen(ds, half, rule="any"), others)
    assert others.attrs["overlap_rule"] == "any" and not verdicts["auroc"].equals(others["auroc"])
    found = disconnect(ds, half, n_resamples=20)
    assert found.attrs["overlap_rule"] == "half" and disconnect(ds, profile, n_resamples=20).attrs["overlap_rule"] == "any"
    rates = [each["false_positive_rate"].sel(null="placed").where(each["seen"].sel(null="placed").notnull()) for each in (verdicts, others)]
    assert float(found["seen_expected"].sel(null="placed", group="all")) == pytest.approx(float(rates[0].mean()))
    assert float(rates[0].mean()) != pytest.approx(float(rates[1].mean()), abs=1e-4)


@pytest.mark.parametrize(("rule", "own", "n_null", "best"), [("any", 3 / 4, 4, 1 / 2), ("half", 3 / 4, 3, 1 / 2), ("all", 1.0, 1, 1 / 3)])
def test_evidence_and_null_boxes_are_cut_at_the_same_shares(rule: OverlapRule, own: float, n_null: int, best: float) -> None:
    cells = np.array([[10.0 * k, 0, 10.0 * k + 10, 10] for k in range(4)])
    # shares of the second cell: a half; and of the others' cells 0.6, 0.4, a half, all but rounding
    boxes = np.array([[0.0, 0, 15, 10], [14, 0, 26, 10], [16, 0, 20, 10], [15, 0, 20, 10], [10, 0, 20 - 1e-10, 10]])
    found = _strip(cells, boxes, [3.0, 1, 2, 0], rule)
    assert float(found["auroc"][0]) == pytest.approx(own)
    assert int(found["n_null"][0]) == n_null and float(found["threshold"][0]) == pytest.approx(best)


def test_the_distractor_null_leads_only_where_most_samples_have_one(ds: xr.Dataset, profile: Profile) -> None:
    asked = np.flatnonzero(~ds["knob_absent"].values)
    roles = ds["evidence_role"].values.astype(object)

    def headline(n: int, *nulls: str) -> str:
        few = roles.copy()
        few[asked[n:]] = np.where(few[asked[n:]] == "distractor", "anchor", few[asked[n:]])
        return disconnect(ds.assign(evidence_role=(("sample", "evidence"), few)), profile, null=nulls, n_resamples=2).attrs["headline"]

    assert len(asked) == 54
    assert headline(1, "placed", "distractor") == headline(26, "distractor", "placed") == "placed"
    assert headline(27, "placed", "distractor") == headline(27, "distractor", "placed") == "distractor"
    assert headline(54, "placed") == "placed" and headline(1, "distractor") == "distractor"


def test_a_map_at_hand_saves_reading_the_attention(ds: xr.Dataset, profile: Profile) -> None:
    expected = disconnect(ds, profile, n_resamples=20)
    found = profiled_map(ds, profile)
    assert found.attrs["layers"] == [2, 3] == profiled_map(ds.isel(sample=0), profile).attrs["layers"]
    light = ds.drop_vars("attention")
    xr.testing.assert_identical(disconnect(light, profile, map=found, n_resamples=20), expected)
    xr.testing.assert_identical(disconnect(light, profile, map=found[::-1], n_resamples=20), expected)  # matched by name
    with pytest.raises(InterpError, match=r"The map is of layers \[1\], but the profile's are \[2, 3\]"):
        disconnect(light, profile, map=profiled_map(ds, replace(profile, layers=(1,))))
    with pytest.raises(InterpError, match="Sample 'planted-5-0' of the trace is not in the map"):
        disconnect(light, profile, map=found.assign_coords(sample=[f"x{k}" for k in range(60)]))


def test_what_another_model_read_is_refused(ds: xr.Dataset, profile: Profile) -> None:
    read = xr.Dataset({"readable": ds["planted_readable"].astype(float)}, attrs={"model": "planted", "revision": ""})
    mine = disconnect(ds, profile, read, n_resamples=2)
    assert mine["readable"].values.tolist() == ["readable", "unreadable"]
    xr.testing.assert_identical(disconnect(ds, profile, read.drop_attrs(), n_resamples=2), mine)
    with pytest.raises(InterpError, match="`readable` is of model 'other', but the trace is of 'planted'"):
        disconnect(ds, profile, read.assign_attrs(model="other"))
    with pytest.raises(InterpError, match="`readable` is of revision 'abc', but the trace is of ''"):
        disconnect(ds, profile, read.assign_attrs(revision="abc"))


def test_a_profile_of_other_things_or_of_these_pictures_is_refused(ds: xr.Dataset, profile: Profile) -> None:
    with pytest.raises(InterpError, match="Profile is of model 'planted', but this is 'other'"):
        disconnect(ds.assign_attrs(model="other"), profile)
    with pytest.raises(InterpError, match="prompt order"):
        disconnect(ds.assign_attrs(prompt_order="question-first"), profile)
    own = profile_layers(ds, fraction=0.5)
    with pytest.raises(InterpError, match="allow_overlap=True"):
        disconnect(ds, own)
    assert disconnect(ds, own, allow_overlap=True, n_resamples=20).attrs["allow_overlap"] == 1


def test_what_cannot_be_judged_is_named(ds: xr.Dataset, profile: Profile) -> None:
    with pytest.raises(InterpError, match="Null 'random' is unknown; use placed or distractor"):
        disconnect(ds, profile, null="random")
    with pytest.raises(InterpError, match="no score 'rouge' per sample"):
        disconnect(ds, profile, correct="rouge")
    with pytest.raises(InterpError, match="`correct` \\(entropy\\) is not only 0 and 1"):
        disconnect(ds, profile, correct="entropy")
    with pytest.raises(InterpError, match="Sample 'planted-5-3' of the trace is not in `readable`"):
        disconnect(ds, profile, ds["planted_readable"][:3].astype(float))
    with pytest.raises(InterpError, match="`readable` has dimensions"):
        disconnect(ds, profile, ds["coverage"])
    with pytest.raises(InterpError, match="there is nothing to judge"):
        disconnect(ds.assign_coords(visibility=("sample", np.full(60, "lost"))), profile)


def test_the_edges_of_the_percentile() -> None:
    """Rank 1 among all up to 19 null values, then the 95th percentile: the rule's chance is 1 / (n + 1), and from there at most 5 %."""
    chances = []
    for n in (1, 2, 3, 4, 18, 19, 20, 40):
        side = n + 1  # a strip of cells, one box each: the first is the evidence
        strip = np.array([[10.0 * k, 0, 10.0 * k + 10, 10] for k in range(side)])
        rates = [_strip_verdict(strip, rank) for rank in range(side)]
        chances.append(np.mean([verdict for verdict, _ in rates]))
        assert rates[0][1] == pytest.approx(chances[-1])  # what it says is what it does
    assert chances[:5] == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 19])
    assert all(chance <= 0.05 + 1e-12 for chance in chances[5:]) and all(a >= b for a, b in pairwise(chances[:6]))


def _strip_verdict(strip: np.ndarray, rank: int) -> tuple[float, float]:
    """Verdict and stated chance where the evidence, the first of the strip's cells, has `rank` smaller values among the others."""
    values = np.delete(np.arange(len(strip), dtype=float), rank)
    found = _strip(strip, strip, [float(rank), *values])
    return float(found["seen"][0]), float(found["false_positive_rate"][0])


def _strip(cells: np.ndarray, boxes: np.ndarray, scores: list[float], rule: OverlapRule = "any") -> xr.Dataset:
    """Verdict of the distractor null on one sample: tokens in a row, the first box the evidence and the others distractors."""
    n, size = len(cells), (10 * len(cells), 10)
    ds = xr.Dataset(
        {
            "coverage": (("sample", "token"), coverage(cells, boxes[:1], size)[None]),
            "evidence_box": (("sample", "evidence", "corner"), boxes[None]),
            "evidence_image": (("sample", "evidence"), np.zeros((1, len(boxes)), int)),
            "evidence_role": (("sample", "evidence"), np.array([["evidence", *["distractor"] * (len(boxes) - 1)]])),
            "image_size": (("sample", "image", "axis"), [[size]]),
        },
        coords={
            "sample": ["strip"],
            "token_box": (("sample", "token", "corner"), cells[None]),
            "image_index": (("sample", "token"), np.zeros((1, n), int)),
        },
    )
    return seen(ds, None, n_null=5, map=xr.DataArray([scores], dims=("sample", "token")), rule=rule).sel(null="distractor")
