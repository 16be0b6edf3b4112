"""Probes by layer and the classes of wrong answers, on features and traces whose truth is planted."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import interp
from interp.analysis import fates, probe_layers
from interp.analysis.fates import FATES
from interp.capture.features import token_features
from interp.errors import InterpError
from interp.testing import planted, samples, tiny_vlm

_TEXT = np.dtypes.StringDType()
_WORDS = np.array([str(digit) for digit in range(4)])


def features(n: int, seed: int, split: str, read_from: int = 1, last_from: int = 3, n_layers: int = 5) -> xr.Dataset:
    """Scenes of an asked card and a distractor whose words are written into the vectors from one layer on, and noise before."""
    rng = np.random.default_rng(seed)
    words = np.stack([rng.permutation(_WORDS)[:2] for _ in range(n)])
    codes = np.eye(4)[np.vectorize(int)(words)]
    table = rng.normal(0, 0.3, (n, 2, n_layers, 8))
    table[:, :, read_from:, :4] += 2 * codes[:, :, None]
    last = rng.normal(0, 0.3, (n, n_layers, 8))
    last[:, last_from:, 4:] += 2 * codes[:, 0, None]
    names = np.array([f"{split}-{k}" for k in range(n)], dtype=_TEXT)
    return xr.Dataset(
        {"features": (("sample", "region", "layer", "feature"), table), "last": (("sample", "layer", "feature"), last)},
        coords={
            "sample": names,
            "image_id": ("sample", names),
            "dataset": ("sample", np.full(n, "d").astype(_TEXT)),
            "split": ("sample", np.full(n, split).astype(_TEXT)),
            "region_text": (("sample", "region"), words.astype(_TEXT)),
            "region_role": (("sample", "region"), np.tile(["evidence", "distractor"], (n, 1)).astype(_TEXT)),
            "layer": np.arange(n_layers),
        },
        attrs={"model": "m", "revision": "r", "split": split},
    )


def test_probes_find_where_an_answer_appears() -> None:
    judged = features(60, 1, "test")
    found = probe_layers(features(90, 0, "train"), judged, n_resamples=50)
    evidence, last = (found["accuracy"].sel(site=site).values for site in ("evidence", "last"))
    assert (evidence[1:] > 0.95).all() and evidence[0] < 0.55
    assert (last[3:] > 0.95).all() and (last[:3] < 0.55).all()
    assert found["best_layer"].sel(site="evidence") >= 1 and found["best_layer"].sel(site="last") >= 3
    assert (found["cv_control"] < 0.5).all() and (found["selectivity"].sel(site="last", layer=4) > 0.5)
    # the distractor never shows the asked word here, so a probe that reads regions does not read it there
    assert (found["control"].sel(site="evidence").isel(layer=slice(1, None)) < 0.05).all()
    assert (found["reading"].values.astype(object) == judged["region_text"].values.astype(object)[:, 0]).mean() > 0.95
    low, high = found["accuracy_interval"].sel(site="evidence", layer=0)
    assert low <= evidence[0] <= high


def test_probes_refuse_what_they_cannot_judge() -> None:
    train = features(30, 0, "train")
    with pytest.raises(InterpError, match="would judge 30 of the pictures"):
        probe_layers(train, train)
    with pytest.raises(InterpError, match="hold one depth only"):
        probe_layers(train.isel(layer=0, drop=True), features(30, 1, "test"))
    with pytest.raises(InterpError, match="of revision 'r', the others of 'x'"):
        probe_layers(train, features(30, 1, "test").assign_attrs(revision="x"))


def test_features_by_layer_are_the_models_own() -> None:
    vlm, bench = tiny_vlm(), samples(3)
    found = token_features(vlm, bench, batch_size=3, layers=True)
    assert found["features"].dims == ("sample", "region", "layer", "feature") and found.sizes["layer"] == vlm.n_layers + 1
    entrance = token_features(vlm, bench, batch_size=1)
    np.testing.assert_allclose(found["features"].isel(layer=0), entrance["features"], atol=1e-5)
    seen = []
    handle = vlm.layers[2].register_forward_hook(lambda _, __, output: seen.append(output[0, -1]))
    for sample in bench:
        vlm.hf_model(**vlm.encode(sample).inputs)
    handle.remove()
    np.testing.assert_allclose(found["last"].isel(layer=3), np.stack([one.detach().numpy() for one in seen]), atol=1e-4)


def probes_of(ds: xr.Dataset, readable: np.ndarray, carried: np.ndarray) -> xr.Dataset:
    right = np.stack([readable, carried]).astype(np.float64)[:, :, None]
    return xr.Dataset(
        {
            "right": (("site", "sample", "layer"), right),
            "control": (("site", "sample", "layer"), np.full(right.shape, 0.25)),
            "best_layer": ("site", [0, 0]),
        },
        coords={"site": ["evidence", "last"], "layer": [0], "sample": ds["sample"]},
    )


@pytest.fixture(scope="module")
def trace() -> tuple[xr.Dataset, interp.analysis.Profile]:
    ds = planted(160, seed=1)
    return ds, interp.profile_layers(planted(80, seed=2))


def test_every_wrong_answer_has_the_first_class_that_fits(trace: tuple[xr.Dataset, interp.analysis.Profile]) -> None:
    ds, profile = trace
    rng = np.random.default_rng(0)
    n = ds.sizes["sample"]
    readable, carried = rng.random(n) < 0.6, rng.random(n) < 0.5
    visible = ds["visibility"].values.astype(object)
    visible[(visible == "visible") & (rng.random(n) < 0.2)] = "cut"
    ds = ds.assign_coords(visibility=("sample", visible.astype(_TEXT)))
    found = fates(ds, profile, probes_of(ds, readable, carried), "placed", n_resamples=50)
    looked = interp.analysis.seen(ds, profile)["seen"].sel(null="placed").values
    for k in range(n):
        fate = found["fate_index"].values[0, k]
        if ds["exact_match"].values[k] == 1 or visible[k] == "none" or (visible[k] == "visible" and np.isnan(looked[k])):
            assert fate == -1
            continue
        if visible[k] != "visible":
            expected = "not visible"
        elif not looked[k]:
            expected = "not seen"
        elif not readable[k]:
            expected = "seen but not readable"
        else:
            expected = "carried, then overridden" if carried[k] else "readable, not carried"
        assert FATES[fate] == expected
    assert float(found["share"].sum("fate").item()) == pytest.approx(1)
    assert int(found["n"].item()) == int((found["fate_index"] >= 0).sum()) > 40
    assert (found["count"] > 0).all()
    assert found["expected"].sel(step="readable").item() == pytest.approx(0.25)


def test_fates_split_by_a_knob_and_count_what_has_no_class(trace: tuple[xr.Dataset, interp.analysis.Profile]) -> None:
    ds, profile = trace
    n = ds.sizes["sample"]
    readable = np.ones(n)
    readable[:10] = np.nan
    found = fates(ds, profile, probes_of(ds, readable, np.zeros(n)), by="knob_n_cards", n_resamples=50)
    assert found["group"].values.tolist() == ["all", "2", "3", "4", "5"]
    np.testing.assert_array_equal(found["count"].sel(group="all"), found["count"].isel(group=slice(1, None)).sum("group"))
    assert int(found["undefined"].sel(reason="readable undefined").sum()) > 0
    assert found["count"].sel(fate="carried, then overridden").sum() == 0
    with pytest.raises(InterpError, match="no coordinate 'knob_nothing'"):
        fates(ds, profile, probes_of(ds, readable, readable), by="knob_nothing")
    with pytest.raises(InterpError, match="is not in `probes`"):
        fates(ds, profile, probes_of(ds, readable, readable).isel(sample=slice(5)))
