"""Methods side by side: each is what it says it is, batches do not matter, and an interrupted run ends as one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp
from interp.analysis import Profile, profiled_map
from interp.answers import SCORES
from interp.benchmarks.sample import Sample
from interp.errors import BenchmarkError, InterpError, StoreError
from interp.interventions import evidence_map, gain, highlight, peak_role, uniform
from interp.methods import Batch, Method, Reply, evaluate, names, open_answers, register
from interp.methods.shared import Shared
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM

ALL = ("base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-boxes")
STEPS = 4


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


@pytest.fixture(scope="module")
def bench() -> list[Sample]:
    bare = Sample("bare", Image.new("RGB", (40, 30), (90, 40, 160)), "what is the colour", "red", image_id="bare", dataset="synthetic")
    return [*samples(4), *samples(1, seed=3, n_images=2), bare]


@pytest.fixture(scope="module")
def profile(vlm: VLM) -> Profile:
    return interp.profile_layers(interp.trace(vlm, samples(4, seed=9), answers=False), 0.5)


@pytest.fixture(scope="module")
def traced(vlm: VLM, bench: list[Sample]) -> xr.Dataset:
    return interp.trace(vlm, bench, batch_size=3, max_new_tokens=STEPS)


@pytest.fixture(scope="module")
def answers(vlm: VLM, bench: list[Sample], profile: Profile) -> xr.Dataset:
    return evaluate(vlm, bench, ALL, profile, batch_size=3, max_new_tokens=STEPS)


def said(answers: xr.Dataset, method: str) -> list[str]:
    # not sel(method=...): that is xarray's own argument for inexact matches
    return answers["prediction"].sel({"method": method}).values.astype(object).tolist()


def picture_maps(traced: xr.Dataset, profile: Profile, k: int, n_images: int, **options: Any) -> list[xr.DataArray]:
    return [evidence_map(traced.isel(sample=k), profile, image_index=i, **options) for i in range(n_images)]


def with_pictures(sample: Sample, pictures: Sequence[Image.Image]) -> Sample:
    return Sample(sample.id, list(pictures), sample.question, sample.references, sample.regions)


def same(first: xr.Dataset, second: xr.Dataset) -> None:
    """Bitwise, but for the time it took."""
    xr.testing.assert_identical(first.load().drop_vars("seconds").drop_attrs(), second.load().drop_vars("seconds").drop_attrs())
    assert {k: v for k, v in first.attrs.items() if k != "created"} == {k: v for k, v in second.attrs.items() if k != "created"}
    for name in first.variables:
        assert first[name].attrs == second[name].attrs, name


# ------------------------------------------------------------------------------------------------------ what it holds


def test_schema(answers: xr.Dataset, bench: list[Sample]) -> None:
    numbers = {*SCORES, "reference_logprob", "reference_logprob_mean", "entropy", "seconds", "mean_gain"}
    for name in (*numbers, "prediction"):
        assert answers[name].dims == ("method", "sample"), name
        assert answers[name].attrs["long_name"]
    assert all(np.isfinite(answers[name].values).all() for name in numbers)
    assert (answers["seconds"] > 0).all()
    for name in ("image_id", "visibility", "knob_cards", "question", "references", "dataset", "split"):
        assert answers.coords[name].dims == ("sample",)
    assert answers["method"].values.tolist() == list(ALL)
    assert answers["sample"].values.tolist() == [sample.id for sample in bench]
    assert answers["shift_role"].dims == answers["profiled_auroc"].dims == ("sample",)
    assert [json.loads(text) for text in answers["references"].values] == [list(sample.references) for sample in bench]
    for k, text in enumerate(said(answers, "vea")):
        assert answers["token_f1"].values[2, k] == SCORES["token_f1"](text, bench[k].references)


def test_provenance(answers: xr.Dataset, profile: Profile) -> None:
    kept = answers.attrs
    assert kept["model"] == "tiny/llava" and kept["prompt_order"] == "image-first" and kept["attribution_prompt"] == "base"
    assert (kept["alpha"], kept["sigma"], kept["lam"], kept["variant"], kept["seed"]) == ("0.5", "0.5", "10.0", "interp", "0")
    assert json.loads(kept["profile_layers"]) == list(profile.layers)
    assert kept["allow_overlap"] == "false" and kept["profile_overlap"] == "0"
    assert "without visible evidence stays as it is" in json.loads(kept["method_summaries"])["vea-boxes"]
    assert "torch" in kept["versions"]


def test_facts_of_samples_are_those_of_a_trace(answers: xr.Dataset, traced: xr.Dataset) -> None:
    for name in ("image_id", "visibility", "knob_cards", "knob_arm", "question", "image_sha256", "evidence_role", "image_size"):
        xr.testing.assert_identical(answers[name].variable, traced[name].variable)


# ----------------------------------------------------------------------------------------------------- what they are


def test_base_is_the_trace(answers: xr.Dataset, traced: xr.Dataset, vlm: VLM, bench: list[Sample]) -> None:
    base = answers.sel({"method": "base"})
    assert said(answers, "base") == traced["prediction"].values.astype(object).tolist() == vlm.generate(bench, max_new_tokens=STEPS)
    for name in (*SCORES, "reference_logprob", "reference_logprob_mean", "entropy"):
        np.testing.assert_allclose(base[name].values, traced[name].values, atol=1e-5)
    assert (base["mean_gain"] == 1).all()


def test_inst_is_the_original_picture_with_the_other_wording(answers: xr.Dataset, vlm: VLM, bench: list[Sample]) -> None:
    assert said(answers, "inst") == vlm.generate(bench, "vea", max_new_tokens=STEPS)
    told = interp.trace(vlm, bench, prompt="vea", batch_size=3, max_new_tokens=1)
    np.testing.assert_allclose(answers["reference_logprob"].sel({"method": "inst"}), told["reference_logprob"], atol=1e-5)
    assert said(answers, "inst") != said(answers, "base")


def test_vea_is_the_picture_highlighted_by_the_base_prompts_attention(
    answers: xr.Dataset, traced: xr.Dataset, profile: Profile, vlm: VLM, bench: list[Sample]
) -> None:
    shown = []
    for k, sample in enumerate(bench):
        maps = picture_maps(traced, profile, k, len(sample.images))
        shown.append(with_pictures(sample, [highlight(p, m) for p, m in zip(sample.open_images(), maps, strict=True)]))
        pixels = np.concatenate([gain(m).ravel() for m in maps])
        assert float(answers["mean_gain"].sel({"method": "vea"})[k]) == pytest.approx(pixels.mean(), abs=1e-4)
    assert said(answers, "vea") == vlm.generate(shown, "vea", max_new_tokens=STEPS)
    assert said(answers, "vea") != said(answers, "inst")


def test_controls_dim_as_much_as_vea(answers: xr.Dataset) -> None:
    dimming = answers["mean_gain"]
    for control in ("vea-shifted", "vea-uniform"):
        np.testing.assert_allclose(dimming.sel({"method": control}), dimming.sel({"method": "vea"}), atol=1e-12)
    assert (dimming.sel({"method": "vea"}) < 1).all()
    for one, other in (("vea", "vea-shifted"), ("vea", "vea-uniform"), ("vea-shifted", "vea-uniform")):
        assert (answers["reference_logprob"].sel({"method": one}) != answers["reference_logprob"].sel({"method": other})).any()


def test_uniform_is_a_picture_of_one_gain(answers: xr.Dataset, traced: xr.Dataset, profile: Profile, vlm: VLM, bench: list[Sample]) -> None:
    flat = [uniform(picture_maps(traced, profile, k, 1)[0]) for k in range(4)]
    shown = [with_pictures(s, [highlight(s.open_images()[0], m)]) for s, m in zip(bench[:4], flat, strict=True)]
    assert said(answers, "vea-uniform")[:4] == vlm.generate(shown, "vea", max_new_tokens=STEPS)


def test_boxes_highlight_the_evidence_and_leave_a_picture_without_it(answers: xr.Dataset, vlm: VLM, bench: list[Sample]) -> None:
    assert bench[-1].id == "bare" and not bench[-1].evidence
    boxes, inst = (answers.isel(sample=-1).sel({"method": name}) for name in ("vea-boxes", "inst"))
    assert float(boxes["mean_gain"]) == 1
    assert str(boxes["prediction"].item()) == str(inst["prediction"].item())
    theirs = evaluate(vlm, bench[-1:], ["inst", "vea-boxes"], variant="authors", max_new_tokens=STEPS)
    assert (theirs["mean_gain"] == 1).all(), "their constant map would dim it all"
    assert theirs["reference_logprob"].values[1, 0] == theirs["reference_logprob"].values[0, 0]
    picture = samples(1, seed=7)[0].open_images()[0].resize((60, 60))
    marked = Sample("marked", picture, "what is the digit", "one", boxes=[(16, 0, 44, 28)])
    one = interp.trace(vlm, [marked], answers=False).isel(sample=0)
    map_ = evidence_map(one, one["coverage"], denoise=False)
    assert peak_role(map_, marked.regions) == "evidence"
    shown = with_pictures(marked, [highlight(picture, map_)])
    told = interp.trace(vlm, [shown], prompt="vea", max_new_tokens=STEPS)
    found = evaluate(vlm, [marked], ["vea-boxes"], max_new_tokens=STEPS)
    assert said(found, "vea-boxes") == [str(told["prediction"].item())]
    assert float(found["reference_logprob"][0, 0]) == pytest.approx(float(told["reference_logprob"][0]), abs=1e-5)


def test_where_shifted_maps_land(vlm: VLM, profile: Profile) -> None:
    """On a picture that is marked all over, every shift lands on what marks it; the seed decides about the shift."""
    many = []
    for k, role in enumerate(("evidence", "anchor", "distractor", None)):
        picture = samples(1, seed=20 + k)[0].open_images()[0]
        regions = [interp.Region((0, 0, *picture.size), role)] if role else []  # pyright: ignore[reportArgumentType]
        many.append(Sample(f"s{k}", picture, "what is the digit", "one", regions))
    found = evaluate(vlm, many, ["vea-shifted"], profile, max_new_tokens=1)
    assert found["shift_role"].values.tolist() == ["evidence", "anchor", "distractor", "background"]
    other, again = (evaluate(vlm, many, ["vea-shifted"], profile, max_new_tokens=1, seed=seed) for seed in (1, 0))
    assert (other["reference_logprob"] != found["reference_logprob"]).any()
    same(again, found)


def test_quality_of_the_map_is_its_auroc(answers: xr.Dataset, traced: xr.Dataset, profile: Profile) -> None:
    for k in range(traced.sizes["sample"]):
        got, one = float(answers["profiled_auroc"][k]), traced.isel(sample=k)
        labels = one["coverage"].values
        real = ~np.isnan(labels)
        if len(set(labels[real] > 0)) < 2:
            assert np.isnan(got)
            continue
        scores = one["attention"].values[list(profile.layers)].astype(float).mean((0, 1))
        assert got == pytest.approx(roc_auc_score(labels[real] > 0, scores[real]), abs=1e-6)
    assert np.isfinite(answers["profiled_auroc"]).sum() >= 3
    assert profiled_map(traced, profile).sizes["sample"] == traced.sizes["sample"]


def test_at_alpha_one_vea_answers_as_inst(vlm: VLM, bench: list[Sample], profile: Profile) -> None:
    for variant in ("interp", "authors"):
        found = evaluate(vlm, bench, ["inst", "vea", "vea-boxes"], profile, alpha=1, variant=variant, batch_size=4, max_new_tokens=STEPS)
        inst = found.sel({"method": "inst"}).drop_vars(["seconds", "passes", "method"])
        for name in ("vea", "vea-boxes"):
            xr.testing.assert_identical(found.sel({"method": name}).drop_vars(["seconds", "passes", "method"]), inst)


def test_the_authors_variant_shows_other_pictures(answers: xr.Dataset, vlm: VLM, bench: list[Sample], profile: Profile) -> None:
    theirs = evaluate(vlm, bench[:2], ["vea"], profile, variant="authors", max_new_tokens=1)
    assert (theirs["reference_logprob"][0].values != answers["reference_logprob"].values[2, :2]).all()
    assert theirs.attrs["variant"] == "authors"


def test_batch_size_does_not_matter(answers: xr.Dataset, vlm: VLM, bench: list[Sample], profile: Profile) -> None:
    alone = evaluate(vlm, bench, ALL, profile, batch_size=1, max_new_tokens=STEPS)
    assert (alone["prediction"].values == answers["prediction"].values).all()
    assert (alone["shift_role"].values == answers["shift_role"].values).all()
    for name in ("reference_logprob", "entropy", "mean_gain", "profiled_auroc"):
        np.testing.assert_allclose(alone[name], answers[name], atol=2e-3 if name == "reference_logprob" else 1e-3)


def test_without_a_profile_there_is_no_map_and_no_quality(vlm: VLM, bench: list[Sample]) -> None:
    found = evaluate(vlm, bench[:2], "vea-boxes", max_new_tokens=1)
    assert found["method"].values.tolist() == ["vea-boxes"]
    assert "profiled_auroc" not in found and "shift_role" not in found


# -------------------------------------------------------------------------------------------------------- one's own


def test_a_method_of_several_passes(vlm: VLM, bench: list[Sample]) -> None:
    """Written outside the package: describe, then ask again about half of the picture with the description in the prompt."""

    def answer(batch: Batch) -> Sequence[Reply]:
        told = batch.ask("describe", max_new_tokens=2)
        halves = [with_pictures(s, [i.crop((0, 0, i.width, i.height // 2)) for i in s.open_images()]) for s in batch.samples]
        bare = [Sample(s.id, s.images, s.question, s.references) for s in halves]
        replies = batch.ask([f"{len(reply.ids)} words : {{question}}" for reply in told], bare)
        for reply, first in zip(replies, told, strict=True):
            reply.numbers |= {"told": float(len(first.ids)), "kind": 1.0}
        return replies

    mine = Method("mine", "twice", answer, records={"told": (), "kind": ("short", "long")})
    whole = [Sample(s.id, s.images, s.question, s.references) for s in bench[:2]]
    found = evaluate(vlm, whole, ["base", mine], max_new_tokens=STEPS)
    assert found["told"].dims == ("sample",) and (found["told"] == 2).all()
    assert found["kind"].values.tolist() == ["long", "long"]
    halves = [Sample(s.id, [i.crop((0, 0, i.width, i.height // 2)) for i in s.open_images()], s.question, s.references) for s in whole]
    assert said(found, "mine") == vlm.generate(halves, "2 words : {question}", max_new_tokens=STEPS)


def lone(answer: Any, **options: Any) -> Method:
    return Method("mine", "of a test", answer, **options)


def bare_reply(batch: Batch) -> list[Reply]:
    return [Reply(np.array([5, 3])) for _ in batch.samples]


def test_a_reply_without_numbers_has_nan(vlm: VLM, bench: list[Sample]) -> None:
    mine = lone(bare_reply, records={"told": (), "kind": ("short", "long")})
    found = evaluate(vlm, bench[:2], ["base", mine], max_new_tokens=2).sel({"method": "mine"})
    for name in ("reference_logprob", "reference_logprob_mean", "entropy", "mean_gain", "told"):
        assert np.isnan(found[name].values).all(), name
    assert found["kind"].values.tolist() == ["", ""]
    assert (found["seconds"] > 0).all()
    assert found["prediction"].values.tolist() == [vlm.decode(torch.tensor([[5, 3]]))[0]] * 2


def test_a_reply_that_stands_for_two_methods_is_charged_to_each(vlm: VLM, bench: list[Sample]) -> None:
    def slower(batch: Batch) -> Sequence[Reply]:
        batch.ask("describe")
        for reply in batch.base:
            reply.numbers["mean_gain"] = 7.0  # a method's own business
        return batch.base

    found = evaluate(vlm, bench[:2], ["base", lone(slower)], max_new_tokens=2)
    assert (found["seconds"].sel({"method": "mine"}) != found["seconds"].sel({"method": "base"})).all()
    assert (found["mean_gain"] == 1).all()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lone(lambda batch: [*bare_reply(batch), Reply(np.array([3]))]), "'mine' gave 3 replies to a batch of 2 samples"),
        (lone(lambda batch: bare_reply(batch)[:1]), "'mine' gave 1 replies to a batch of 2 samples"),
        (
            lone(lambda batch: [Reply(np.array([5, 5, 3])) for _ in batch.samples]),
            "'mine' replied to sample 'synthetic-0-0' with 3 tokens, more than max_new_tokens=2",
        ),
        (
            lone(lambda batch: [Reply(np.array([3]), {"kind": 2.0}) for _ in batch.samples], records={"kind": ("short", "long")}),
            "'mine' recorded kind=2 for sample 'synthetic-0-0', which has no meaning; record 0 to 1",
        ),
    ],
    ids=["too many", "too few", "too long", "no meaning"],
)
def test_replies_that_cannot_be_kept(vlm: VLM, bench: list[Sample], method: Method, message: str) -> None:
    with pytest.raises(InterpError, match=message):
        evaluate(vlm, bench[:2], [method], max_new_tokens=2)


@pytest.mark.parametrize("name", ["entropy", "prediction", "sample", "image_id", "profiled_auroc", "exact_match", "knob_cards", "method"])
def test_a_record_cannot_take_the_name_of_a_variable(vlm: VLM, bench: list[Sample], name: str) -> None:
    with pytest.raises(InterpError, match=f"'mine' records '{name}', which the answers hold already"):
        evaluate(vlm, bench[:1], [lone(bare_reply, records={name: ()})])


def test_two_methods_cannot_record_the_same_name(vlm: VLM, bench: list[Sample], profile: Profile) -> None:
    with pytest.raises(InterpError, match="'vea-shifted' and 'mine' both record 'shift_role'"):
        evaluate(vlm, bench[:1], ["vea-shifted", lone(bare_reply, records={"shift_role": ()})], profile)


def test_half_precision(bench: list[Sample]) -> None:
    half = tiny_vlm(dtype=torch.bfloat16)
    own = interp.profile_layers(interp.trace(half, samples(4, seed=9), answers=False), 0.5)
    found = evaluate(half, bench[:2], ["base", "vea"], own, max_new_tokens=2)
    traced = interp.trace(half, bench[:2], max_new_tokens=2)
    assert found.attrs["dtype"] == traced.attrs["dtype"] == "bfloat16"
    assert said(found, "base") == traced["prediction"].values.astype(object).tolist()
    np.testing.assert_array_equal(found["reference_logprob"].values[0], traced["reference_logprob"])
    np.testing.assert_array_equal(found["entropy"].values[0], traced["entropy"])
    assert np.isfinite(found["reference_logprob"].values).all() and (found["mean_gain"].values[1] < 1).all()


def test_shared_work_is_done_once_and_charged_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    parts, made = Shared(), []

    def takes(seconds: float, name: str) -> str:
        clock[0] += seconds
        made.append(name)
        return name

    def prefill() -> str:
        return parts.once("prefill", lambda: takes(8, "prefill"))

    def maps() -> str:
        return parts.once("maps", lambda: prefill() + prefill() + takes(4, "maps"))

    def base() -> str:
        return parts.once("base", lambda: prefill() + takes(2, "base"))

    assert parts.timed(lambda: base()) == ("prefillbase", 10)
    assert parts.timed(lambda: maps() + takes(1, "vea")) == ("prefillprefillmapsvea", 13)
    assert parts.timed(lambda: maps() + maps() + base() + takes(1, "both"))[1] == 15
    assert parts.timed(lambda: takes(0.5, "inst")) == ("inst", 0.5)
    assert made == ["prefill", "base", "maps", "vea", "both", "inst"]


def test_the_registry() -> None:
    assert names()[: len(ALL)] == ALL
    with pytest.raises(InterpError, match="Method 'vea' is already known"):
        register(Method("vea", "", lambda batch: batch.base))


# ------------------------------------------------------------------------------------------------------------ stores


class Interrupted(Exception):
    pass


def failing(name: str, after: int) -> Method:
    """`inst`, until it is asked for the batch number `after`."""
    calls = iter(range(after))

    def answer(batch: Batch) -> Sequence[Reply]:
        if next(calls, None) is None:
            raise Interrupted
        return batch.ask("vea")

    return Method(name, "as inst", answer)


def test_an_interrupted_run_ends_as_one_that_was_not(vlm: VLM, bench: list[Sample], profile: Profile, tmp_path: Path) -> None:
    def run(own: Method, store: Path | None) -> xr.Dataset:
        return evaluate(vlm, bench, ["vea-shifted", own], profile, batch_size=2, max_new_tokens=3, store=store, settings={"why": "test"})

    path = tmp_path / "answers.zarr"
    with pytest.raises(Interrupted):
        run(failing("own", 1), path)
    with pytest.raises(StoreError, match="2 of 6"):
        open_answers(path)
    with pytest.raises(Interrupted):
        run(failing("own", 1), path)
    with pytest.raises(StoreError, match="4 of 6"):
        open_answers(path)
    resumed = run(failing("own", 1), path)
    same(resumed, run(failing("own", 9), None))
    same(resumed, run(failing("own", 9), tmp_path / "whole.zarr"))
    assert resumed.attrs["settings"] == '{"why": "test"}'
    same(open_answers(path), run(failing("own", 0), path))  # opened at once: the method is not asked


def test_a_finished_store_needs_no_forward_pass(vlm: VLM, bench: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(vlm, bench[:2], ["base"], max_new_tokens=1, store=tmp_path / "a.zarr").load()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(vlm.hf_model, "forward", never)
    monkeypatch.setattr(vlm, "encode", never)
    same(evaluate(vlm, bench[:2], ["base"], max_new_tokens=1, store=tmp_path / "a.zarr"), first)


def test_other_pictures_are_refused(vlm: VLM, bench: list[Sample], tmp_path: Path) -> None:
    def run(asked: list[Sample], after: int) -> xr.Dataset:
        return evaluate(vlm, asked, [failing("own", after)], batch_size=2, max_new_tokens=1, store=tmp_path / "a.zarr")

    def repainted(k: int) -> list[Sample]:
        one = bench[k]
        picture = one.open_images()[0].point(lambda level: 255 - level)
        known = {"image_id": one.image_id, "dataset": one.dataset, "split": one.split, "knobs": one.knobs}
        return [*bench[:k], Sample(one.id, picture, one.question, one.references, one.regions, **known), *bench[k + 1 : 4]]

    with pytest.raises(Interrupted):
        run(bench[:4], 1)
    with pytest.raises(StoreError, match="a.zarr' was begun with another picture of sample 'synthetic-0-3'"):
        run(repainted(3), 9)
    with pytest.raises(StoreError, match="2 of 4"):
        open_answers(tmp_path / "a.zarr")
    run(bench[:4], 9)
    for place in (0, 2, 3):
        with pytest.raises(StoreError, match=f"another picture of sample 'synthetic-0-{place}'"):
            run(repainted(place), 0)
    assert run(repainted(1), 0).sizes["sample"] == 4, "the limit that the docstring names"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.4}, r"alpha is 0.5 there and 0.4 here"),
        ({"methods": ["inst"]}, r"methods is \['base'\] there and \['inst'\] here"),
        ({"bench": slice(1, 3)}, "samples is '2 samples, "),
        ({"seed": 3}, "seed is 0 there and 3 here"),
    ],
)
def test_a_store_of_other_settings_is_refused(vlm: VLM, bench: list[Sample], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.zarr"
    evaluate(vlm, bench[:2], ["base"], max_new_tokens=1, store=path)
    part = change.pop("bench", slice(0, 2))
    with pytest.raises(StoreError, match=message):
        evaluate(vlm, bench[part], **{"methods": ["base"], "max_new_tokens": 1, "store": path, **change})


def test_what_is_no_evaluation_is_refused(vlm: VLM, bench: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone.zarr"):
        open_answers(tmp_path / "gone.zarr")
    interp.trace(vlm, bench[:1], max_new_tokens=1, store=tmp_path / "trace.zarr")
    with pytest.raises(StoreError, match="trace"):
        open_answers(tmp_path / "trace.zarr")


def test_answers_open_without_torch(vlm: VLM, bench: list[Sample], tmp_path: Path) -> None:
    evaluate(vlm, bench[:2], ["base"], max_new_tokens=1, store=tmp_path / "a.zarr")
    code = (
        "import sys; from interp.methods import open_answers; found = open_answers(sys.argv[1]).load();"
        "sys.exit(found.sizes['sample'] != 2 or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.zarr")], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["vea"]}, "Method 'vea' needs a layer profile"),
        ({"methods": ["nope"]}, "Method 'nope' is unknown; use some of base, inst, vea, vea-shifted"),
        ({"methods": ["base", "base"]}, "Method 'base' is asked for twice"),
        ({"methods": []}, "No method is given"),
        ({"alpha": -0.1}, r"alpha=-0.1 is outside \[0, 1\]"),
        ({"sigma": -1}, "sigma=-1.0 is not a width"),
        ({"lam": 0}, "lam=0.0 would call"),
        ({"variant": "x"}, "Variant 'x' is unknown"),
        ({"batch_size": 0}, "must be 1 or more"),
        ({"methods": ["base"], "settings": {"a": object()}}, "settings cannot be kept"),
    ],
)
def test_arguments_that_are_not_understood(vlm: VLM, bench: list[Sample], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        evaluate(vlm, bench[:1], **options)


def test_profiles_that_cannot_judge(vlm: VLM, bench: list[Sample], profile: Profile) -> None:
    with pytest.raises(InterpError, match="Profile is of prompt order 'image-first', but this is 'question-first'"):
        evaluate(tiny_vlm(prompt_order="question-first"), bench[:1], ["base"], profile)
    own = interp.profile_layers(interp.trace(vlm, bench[:2], answers=False))
    with pytest.raises(InterpError, match="fitted on 1 of the images it would judge"):
        evaluate(vlm, bench[:2], ["base"], own)
    found = evaluate(vlm, bench[:2], ["vea"], own, allow_overlap=True, max_new_tokens=1)
    assert found.attrs["allow_overlap"] == "true" and found.attrs["profile_overlap"] == "1"


def test_bad_benchmarks(vlm: VLM, bench: list[Sample]) -> None:
    with pytest.raises(BenchmarkError, match="no samples"):
        evaluate(vlm, [], ["base"])
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        evaluate(vlm, [bench[0], bench[0]], ["base"])
    assert torch.is_grad_enabled()
