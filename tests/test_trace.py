"""The labelled dataset: names, dimensions, coordinates, provenance, and what happens on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import interp
from interp.benchmarks.sample import image_sha256
from interp.errors import BenchmarkError, ImageError, InterpError, SampleError
from interp.geometry import coverage
from interp.testing import samples, tiny_vlm, traces
from interp.vlm import VLM

DIMS = {
    "attention": ("sample", "layer", "head", "token"),
    "coverage": ("sample", "token"),
    "answer_ids": ("sample", "step"),
    "question": ("sample",),
    "prediction": ("sample",),
    "references": ("sample",),
    "evidence_box": ("sample", "evidence", "corner"),
    "evidence_image": ("sample", "evidence"),
    "evidence_role": ("sample", "evidence"),
    "evidence_text": ("sample", "evidence"),
    "image_size": ("sample", "image", "axis"),
    "image_uri": ("sample", "image"),
    "image_sha256": ("sample", "image"),
    "exact_match": ("sample",),
    "contains": ("sample",),
    "token_f1": ("sample",),
    "anls": ("sample",),
    "vqa_accuracy": ("sample",),
    "reference_logprob": ("sample",),
    "reference_logprob_mean": ("sample",),
    "entropy": ("sample",),
    "seconds": ("sample",),
}
COORDINATES = {
    "sample": ("sample",),
    "layer": ("layer",),
    "head": ("head",),
    "corner": ("corner",),
    "axis": ("axis",),
    "segment": ("sample", "token"),
    "token_box": ("sample", "token", "corner"),
    "view": ("sample", "token"),
    "row": ("sample", "token"),
    "col": ("sample", "token"),
    "image_index": ("sample", "token"),
    "token_id": ("sample", "token"),
    "token_text": ("sample", "token"),
    "n_token": ("sample",),
    "layer_kind": ("layer",),
    "dataset": ("sample",),
    "split": ("sample",),
    "image_id": ("sample",),
    "visibility": ("sample",),
    "knob_cards": ("sample",),
    "knob_arm": ("sample",),
}
PROVENANCE = {
    "model",
    "revision",
    "family",
    "dtype",
    "attention_implementation",
    "image_backend",
    "prompt",
    "prompt_order",
    "benchmark",
    "split",
    "versions",
    "settings_hash",
    "created",
}


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


@pytest.fixture(scope="module")
def traced(vlm: VLM) -> xr.Dataset:
    return interp.trace(vlm, samples(5), batch_size=3, max_new_tokens=3)


def test_schema(traced: xr.Dataset) -> None:
    assert {str(name): variable.dims for name, variable in traced.data_vars.items()} == DIMS
    assert {str(name): variable.dims for name, variable in traced.coords.items()} == COORDINATES
    assert set(traced.attrs) >= PROVENANCE
    for name in {*DIMS, "segment", "token_box", "n_token"}:
        assert traced[name].attrs["long_name"]
    assert traced["token_box"].attrs["units"] == "pixel"
    assert traced["entropy"].attrs["units"] == "nat"


def test_a_synthetic_trace_has_the_same_schema(traced: xr.Dataset) -> None:
    made = traces()
    assert {name: v.dims for name, v in made.variables.items()} == {name: v.dims for name, v in traced.variables.items()}
    assert {name: v.dtype for name, v in made.variables.items()} == {name: v.dtype for name, v in traced.variables.items()}
    assert set(made.attrs) >= PROVENANCE - {"max_new_tokens"}
    xr.testing.assert_identical(made.drop_attrs(), traces().drop_attrs())
    assert 0.3 < float(made["exact_match"].mean()) < 0.7


def test_attention_sums_to_one_and_ends_with_the_prompt(traced: xr.Dataset) -> None:
    assert traced["attention"].dtype == np.float32
    np.testing.assert_allclose(traced["attention"].sum("token"), 1, atol=1e-5)
    past = np.arange(traced.sizes["token"]) >= traced["n_token"].values[:, None]
    assert (traced["attention"].isnull().all(("layer", "head")).values == past).all()
    assert ((traced["segment"] == -1).values == past).all()
    assert traced["segment"].dtype == np.int8
    assert traced["segment"].attrs["flag_values"] == [0, 1, 2, 3, 4]
    assert traced["segment"].attrs["flag_meanings"] == "system image question instruction template"


def test_coverage_is_that_of_the_evidence_alone(traced: xr.Dataset) -> None:
    for i, sample in enumerate(samples(5)):
        boxes = [region.box for region in sample.evidence]
        expected = coverage(traced["token_box"][i].values, boxes, sample.open_images()[0].size)
        np.testing.assert_allclose(traced["coverage"][i], expected)
        picture = (traced["segment"][i] == 1).values
        assert (np.isfinite(traced["coverage"][i].values) == picture).all()
        assert (traced["image_index"][i].values[picture] == 0).all()


def test_text_and_pictures_can_be_found_again(traced: xr.Dataset) -> None:
    for i, sample in enumerate(samples(5)):
        assert str(traced["question"].values[i]) == sample.question
        assert json.loads(str(traced["references"].values[i])) == list(sample.references)
        assert tuple(traced["image_size"][i, 0].values) == sample.open_images()[0].size
        assert str(traced["image_sha256"].values[i, 0]) == image_sha256(sample.open_images()[0])
    assert traced["knob_cards"].values.tolist() == [0, 1, 2, 3, 0]


def test_two_pictures_and_samples_without_evidence(vlm: VLM) -> None:
    bare = interp.Sample("bare", Image.new("RGB", (40, 30)), "what is the colour", "red")
    ds = interp.trace(vlm, [*samples(1, n_images=2), bare], answers=False)
    assert ds.sizes["image"] == 2
    assert (ds["image_index"][0] == 1).sum() == 16
    assert np.nansum(ds["coverage"][1]) == 0
    assert ds["visibility"].values.tolist()[1] == "none"
    assert not any(bool(role) for role in ds["evidence_role"].values[1])


def test_without_answers(vlm: VLM) -> None:
    ds = interp.trace(vlm, samples(2), answers=False)
    assert "prediction" not in ds
    assert "reference_logprob" not in ds
    assert {"attention", "entropy", "seconds"} <= set(ds)


def test_batch_size_does_not_matter(vlm: VLM, traced: xr.Dataset) -> None:
    alone = interp.trace(vlm, samples(5), batch_size=1, max_new_tokens=3)
    np.testing.assert_allclose(alone["attention"], traced["attention"], atol=1e-5)
    assert (alone["prediction"].values == traced["prediction"].values).all()
    np.testing.assert_allclose(alone["reference_logprob"], traced["reference_logprob"], atol=1e-4)


def test_residual_is_the_stream_after_each_layer(vlm: VLM) -> None:
    sample = samples(1)[0]
    ds = interp.trace(vlm, [sample], answers=False, residual=True)
    with torch.no_grad():
        states = vlm.hf_model(**vlm.encode(sample).inputs, output_hidden_states=True).hidden_states
    for layer in range(vlm.n_layers - 1):  # transformers normalises the last one
        np.testing.assert_allclose(ds["residual"][0, layer], states[layer + 1][0, -1], atol=1e-4)


def test_shards_are_whole_batches_and_cover_the_benchmark(vlm: VLM, traced: xr.Dataset) -> None:
    parts = [interp.trace(vlm, samples(5), batch_size=3, max_new_tokens=3, shard=f"{i}/2") for i in range(2)]
    assert [part["sample"].values.tolist() for part in parts] == [[f"synthetic-0-{i}" for i in mine] for mine in ([0, 1, 2], [3, 4])]
    assert [part.attrs["shard"] for part in parts] == ["0/2", "1/2"]
    for part, whole in zip(parts, (traced.isel(sample=slice(3)), traced.isel(sample=slice(3, 5))), strict=True):
        length = part.sizes["token"]
        assert np.array_equal(part["attention"], whole["attention"][..., :length], equal_nan=True), "the same batch gives the same bits"


def test_an_answers_axis_is_as_long_as_an_answer_may_be(vlm: VLM) -> None:
    ds = interp.trace(vlm, samples(2), max_new_tokens=5, queries="answer")
    assert ds.sizes["step"] == ds.sizes["query"] == 5
    assert ds.sizes["key"] == ds.sizes["token"] + 5


def test_settings_are_kept(vlm: VLM) -> None:
    ds = interp.trace(vlm, samples(1), answers=False, settings={"split": "test", "limit": 1})
    assert json.loads(ds.attrs["settings"]) == {"split": "test", "limit": 1}
    with pytest.raises(InterpError, match="settings cannot be kept"):
        interp.trace(vlm, samples(1), settings={"path": Path()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "2/2"}, "shard='2/2' is not understood"),
        ({"shard": "x"}, "shard='x' is not understood"),
        ({"queries": "words"}, "queries='words' is not understood"),
        ({"queries": "answer", "answers": False}, "drop answers=False"),
        ({"queries": []}, r"queries=\[\] asks for no position"),
        ({"queries": [999]}, "Query position 999 is outside a prompt of"),
        ({"batch_size": 0}, "must be 1 or more"),
        ({"prompt": "nope"}, "Prompt 'nope' is unknown"),
    ],
)
def test_arguments_that_are_not_understood(vlm: VLM, options: dict[str, object], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        interp.trace(vlm, samples(1), **options)  # type: ignore[arg-type]


def test_bad_benchmarks(vlm: VLM, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no samples"):
        interp.trace(vlm, [])
    with pytest.raises(BenchmarkError, match="is empty"):
        interp.trace(vlm, samples(1), shard="1/2")
    with pytest.raises(ImageError, match="does not exist"):
        interp.trace(vlm, [interp.Sample("s", tmp_path / "gone.png", "what", "one")])
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        interp.trace(vlm, [interp.Sample("s", tmp_path / "bad.png", "what", "one")])
    with pytest.raises(SampleError, match="outside its 40 x 30 image"):
        interp.trace(vlm, [interp.Sample("s", Image.new("RGB", (40, 30)), "what", "one", boxes=[(0, 0, 50, 10)])])


@pytest.mark.parametrize(
    "module",
    [
        "interp",
        "interp.analysis",
        "interp.answers",
        "interp.benchmarks",
        "interp.capture",
        "interp.capture.store",
        "interp.families",
        "interp.geometry",
    ],
)
def test_light_imports_stay_light(module: str) -> None:
    heavy = "{'torch', 'transformers', 'nnsight'} & set(sys.modules)"
    code = f"import sys, {module}; found = {heavy}; sys.exit(f'imported {{found}}' if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    for name in interp.__all__:
        assert getattr(interp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(interp, "nothing".strip())
