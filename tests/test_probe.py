"""Features as they enter the decoder, against a hook; the probe, on features whose meaning is planted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interp.analysis.probe import fit_probe, readable
from interp.benchmarks.sample import Region, Sample
from interp.capture.features import token_features
from interp.capture.probing import probed
from interp.errors import BenchmarkError, InterpError
from interp.geometry import coverage
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM

Marked = tuple[str, str, float]  # role, text, and which word the region's vector shows (-1: noise, NaN: no token shows it)


def _features(scenes: Sequence[Sequence[Marked]], split: str = "test", noise: float = 0.1, seed: int = 0) -> xr.Dataset:
    """Regions whose vector is the unit vector of a digit, and noise."""
    rng = np.random.default_rng(seed)
    most = max(len(scene) for scene in scenes)
    table = np.full((len(scenes), most, 12), np.nan, dtype=np.float32)
    text, role = np.full((len(scenes), most), "", dtype=object), np.full((len(scenes), most), "", dtype=object)
    for k, scene in enumerate(scenes):
        for j, (as_role, words, shows) in enumerate(scene):
            text[k, j], role[k, j] = words, as_role
            if not np.isnan(shows):
                table[k, j] = rng.normal(0, noise, 12) + (np.eye(12)[int(shows)] if shows >= 0 else 0)
    kind = np.dtypes.StringDType()
    dims = ("sample", "region")
    names = np.array([f"{split}-{k}" for k in range(len(scenes))], dtype=kind)
    return xr.Dataset(
        {"features": ((*dims, "feature"), table)},
        coords={
            "sample": names,
            "image_id": ("sample", names),
            "region_text": (dims, text.astype(kind)),
            "region_role": (dims, role.astype(kind)),
        },
        attrs={"model": "planted", "revision": ""},
    )


def _training() -> xr.Dataset:
    rng = np.random.default_rng(7)
    digits = rng.integers(0, 10, (80, 3))
    return _features([[("evidence", str(a), a), ("distractor", str(b), b), ("anchor", str(c), c)] for a, b, c in digits], "train")


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


def _hooked(vlm: VLM, sample: Sample) -> Any:
    kept: list[torch.Tensor] = []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args[0] if args else kwargs["hidden_states"]).detach())

    handle = vlm.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            vlm.hf_model(**vlm.encode(sample).inputs)
    finally:
        handle.remove()
    return kept[0][0].numpy()


def test_features_are_weighted_means_of_what_enters_the_decoder(vlm: VLM) -> None:
    asked = samples(5)
    found = token_features(vlm, asked, batch_size=3)
    assert found["features"].dims == ("sample", "region", "feature") and found["features"].dtype == np.float32
    assert found["sample"].values.tolist() == [s.id for s in asked] and found["image_id"].values.tolist() == [s.image_id for s in asked]
    for k, sample in enumerate(asked):
        vectors, encoding = _hooked(vlm, sample), vlm.encode(sample)
        for j, region in enumerate(sample.regions):
            weights = np.nan_to_num(coverage(encoding.token_boxes, [region.box], encoding.images[0].size))
            expected = np.average(vectors, axis=0, weights=weights)
            np.testing.assert_allclose(found["features"].values[k, j], expected, atol=1e-5)
            assert found["region_box"].values[k, j].tolist() == list(region.box) and found["region_role"].values[k, j] == region.role
        assert np.isnan(found["features"].values[k, len(sample.regions) :]).all()
    assert found.attrs["model"] == vlm.name and found.attrs["prompt_order"] == "image-first"


def test_no_decoder_layer_runs_for_features(vlm: VLM) -> None:
    ran: list[int] = []
    handles = [layer.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, layer in enumerate(vlm.layers)]
    try:
        token_features(vlm, samples(2))
        stopped = list(ran)
        vlm.generate(samples(1), max_new_tokens=1)
    finally:
        for handle in handles:
            handle.remove()
    assert stopped == [] and ran == [0, 1, 2, 3]


def test_several_pictures_regions_out_of_sight_and_the_limit(vlm: VLM) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8))  # the model crops its centre
    regions = [Region((0, 0, 10, 40), "distractor", "a"), Region((50, 10, 70, 30), "evidence", "b")]
    two = Sample("two", [wide, wide.resize((60, 60))], "what is it", "b", [*regions, Region((0, 0, 60, 60), "anchor", None, 1)])
    found = token_features(vlm, [two, samples(1)[0]])
    assert found["features"].isnull().all("feature").values[0].tolist() == [True, False, False]
    assert found["region_text"].values[0].tolist() == ["a", "b", ""] and found["region_image"].values[0].tolist() == [0, 0, 1]
    vectors, encoding = _hooked(vlm, two), vlm.encode(two)
    np.testing.assert_allclose(found["features"].values[0, 2], vectors[encoding.image_index == 1].mean(axis=0), atol=1e-5)
    assert token_features(vlm, [two], max_regions=2).sizes["region"] == 2
    with pytest.raises(BenchmarkError, match="no samples"):
        token_features(vlm, [])
    with pytest.raises(InterpError, match="batch_size \\(0\\)"):
        token_features(vlm, [two], batch_size=0)


def test_features_in_half_precision() -> None:
    half, single = (token_features(tiny_vlm(dtype=dtype), samples(3)) for dtype in (torch.bfloat16, torch.float32))
    assert half["features"].dtype == np.float32 and half.attrs["dtype"] == "bfloat16"
    assert (half["features"].isnull() == single["features"].isnull()).all()
    scale = float(np.abs(single["features"]).max())
    np.testing.assert_allclose(half["features"], single["features"], atol=0.05 * scale)


def _scene(name: str, digit: int, **knobs: Any) -> Sample:
    """A picture whose grey is its digit."""
    noise = np.random.default_rng(digit).integers(0, 40, (28, 28, 3), dtype=np.uint8)
    picture = Image.fromarray(noise + np.uint8(digit * 60))
    return Sample(name, picture, "what is it", str(digit), [Region((0, 0, 28, 28), "evidence", str(digit))], image_id=name, knobs=knobs)


def test_probed_leaves_out_scenes_with_a_prior(vlm: VLM) -> None:
    fair = [_scene(f"fair-{k}", k % 3, prior_digit=-1) for k in range(6)] + [_scene("plain", 1)]
    lying = [_scene(f"prior-{k}", k % 3, prior_digit=(k + 1) % 3) for k in range(6)]
    # what the probe would learn of them: the wrong word for every grey
    lying = [Sample(s.id, _scene("", (k + 1) % 3).images, "what is it", "0", s.regions, knobs=s.knobs) for k, s in enumerate(lying)]
    asked = [_scene(f"test-{k}", k % 3) for k in range(5)]
    found = probed(vlm, [*lying, *fair], asked, batch_size=4, progress=False)
    by_hand = readable(fit_probe(token_features(vlm, fair), roles=("evidence",)), token_features(vlm, asked))
    xr.testing.assert_allclose(found, by_hand)
    assert found["reading"].values.tolist() == by_hand["reading"].values.tolist() == ["0", "1", "2", "0", "1"]
    misled = readable(fit_probe(token_features(vlm, [*lying, *fair]), roles=("evidence",)), token_features(vlm, asked))
    assert misled["reading"].values.tolist() != found["reading"].values.tolist(), "leaving them out matters"
    with pytest.raises(BenchmarkError, match="No training sample is free of a prior"):
        probed(vlm, lying, asked)


def test_a_probe_reads_parts_wholes_and_nothing_else() -> None:
    nan = float("nan")
    scenes: list[list[Marked]] = [
        [("evidence", "4", 4), ("distractor", "7", 7)],  # read
        [("evidence", "4", 5), ("distractor", "4", 4)],  # misread, and the answer is on the distractor
        [("evidence", "4 7", -1), ("evidence", "4", 4), ("evidence", "7", 7), ("distractor", "1", 1)],  # part by part
        [("evidence", "4 7", -1), ("evidence", "4", 4), ("evidence", "7", 2), ("distractor", "4", 4), ("distractor", "7", 7)],  # one wrong
        [("evidence", "4 7", 4), ("distractor", "7", 7)],  # no parts marked
        [("evidence", "seven", 7)],  # no word of the probe's
        [("distractor", "7", 7)],  # absent
        [("evidence", "4", nan), ("distractor", "7", 7)],  # no token shows it
        [("evidence", "", 4)],  # a box without a text
        [("evidence", "4", 4)],  # without distractors
        [("evidence", "4", 4), ("distractor", "4", 4), ("distractor", "7", 7), ("anchor", "4", 4)],  # one distractor of two
    ]
    found = readable(fit_probe(_training()), _features(scenes))
    nothing = float("nan")
    expected = [1, 0, 1, 0, nothing, nothing, nothing, nothing, nothing, 1, 1]
    np.testing.assert_array_equal(found["readable"].values, expected)
    np.testing.assert_allclose(found["control"].values, [0, 1, 0, 0.25, nothing, nothing, nothing, nothing, nothing, nothing, 0.5])
    assert found["reading"].values.tolist()[:4] == ["4", "5", "4 7", "4 2"] and found["reading"].values[4] == ""
    assert found.attrs["n_undefined"] == 5
    assert found["n"].values.tolist() == [6, 5] and found["accuracy"].values.tolist() == pytest.approx([4 / 6, 1.75 / 5])
    assert float(found["advantage"]) == pytest.approx(((1 - 0) + (0 - 1) + 1 + (0 - 0.25) + (1 - 0.5)) / 5)
    assert (found["interval"].sel(ci_bound="lower") <= found["accuracy"]).all()


def test_the_probe_is_the_fit_of_the_one_word_regions() -> None:
    training = _training()
    noisy = _features([[("evidence", str(k % 10), k % 10)] for k in range(60)], noise=0.5, seed=3)
    table = training["features"].values.reshape(-1, 12)
    words = training["region_text"].values.astype(object).ravel().astype(str)
    scale = StandardScaler().fit(table)
    model = LogisticRegression(max_iter=2000).fit(scale.transform(table), words)
    probe = fit_probe(training)
    expected = model.predict(scale.transform(noisy["features"].values[:, 0]))
    assert probe.read(noisy["features"].values[:, 0]).tolist() == expected.tolist()
    assert 0 < (expected == noisy["region_text"].values[:, 0].astype(object)).mean() < 1
    assert probe.n == 240 and probe.classes == tuple("0123456789")
    assert fit_probe(training, roles=("evidence",)).n == 80


def test_a_probe_of_noise_does_not_beat_its_control_and_one_of_signal_does() -> None:
    rng = np.random.default_rng(1)
    digits = rng.integers(0, 10, (150, 3))
    blind = [[("evidence", str(a), -1.0), ("distractor", str(b), -1.0), ("distractor", str(c), -1.0)] for a, b, c in digits]
    sharp = [[("evidence", str(a), float(a)), ("distractor", str(b), float(b)), ("distractor", str(c), float(c))] for a, b, c in digits]
    lower = {}
    for name, scenes in {"blind": blind, "sharp": sharp}.items():
        found = readable(fit_probe(_features(scenes, "train", seed=1)), _features(scenes, seed=2))
        lower[name] = float(found["advantage_interval"].sel(ci_bound="lower"))
    assert lower["blind"] < 0 < 0.7 < lower["sharp"]


def test_a_probe_refuses_its_own_pictures_another_model_and_too_little() -> None:
    training = _training()
    probe = fit_probe(training)
    with pytest.raises(InterpError, match="fitted on 80 of the images it would judge \\('train-0', ...\\); fit it on scenes of another"):
        readable(probe, training)
    other = _features([[("evidence", "4", 4)]]).assign_attrs(model="another")
    with pytest.raises(InterpError, match="Probe is of model 'planted' .* of 'another'"):
        readable(probe, other)
    with pytest.raises(InterpError, match="show 1 different one-word texts"):
        fit_probe(_features([[("evidence", "4", 4), ("distractor", "4 7", 4)]] * 5))
