"""One model attributes, another answers: the maps are the other's, the answers are one's own, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp
from experiments.delegate import described, map_quality, paired, side_by_side
from interp.analysis import Profile, mean_interval
from interp.benchmarks.sample import Sample
from interp.cli import app
from interp.errors import InterpError, StoreError
from interp.interventions import evidence_map, gain, highlight, shift, uniform
from interp.methods import Batch, Method, Reply, evaluate, open_answers
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM

ALL = ("base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-boxes")
PAIRS = [("qwen2_5_vl", "llava"), ("gemma3", "internvl"), ("llava", "qwen3_vl")]
STEPS = 3


@dataclass(frozen=True)
class Pair:
    """A model that attributes, its profile and its trace, and the model that answers."""

    other: VLM
    vlm: VLM
    profile: Profile
    trace: xr.Dataset


def questions() -> list[Sample]:
    bare = Sample("bare", Image.new("RGB", (44, 36), (90, 40, 160)), "what is the colour", "red", image_id="bare", dataset="synthetic")
    return [*samples(3), *samples(1, seed=3, n_images=2), bare]


@cache
def profiled(vlm: VLM) -> Profile:
    return interp.profile_layers(interp.trace(vlm, samples(4, seed=9), answers=False), 0.5)


@cache
def made(attributing: str, answering: str) -> Pair:
    depth: dict[str, Any] = {"num_hidden_layers": 6} if attributing == "llava" else {}  # two models need not have as many layers
    other = tiny_vlm(attributing, **depth)
    # another order and further samples: what counts is the id
    traced = interp.trace(other, [*samples(1, seed=7), *questions()[::-1]], answers=False, batch_size=4)
    return Pair(other, tiny_vlm(answering), profiled(other), traced)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return made(*PAIRS[0])


@pytest.fixture(scope="module")
def answers(pair: Pair) -> xr.Dataset:
    return evaluate(pair.vlm, questions(), ALL, pair.profile, attribution=pair.trace, batch_size=2, max_new_tokens=STEPS)


def said(answers: xr.Dataset, method: str) -> list[str]:
    return answers["prediction"].sel({"method": method}).values.astype(object).tolist()


def traced(trace: xr.Dataset, sample: Sample) -> xr.Dataset:
    return trace.isel(sample=[str(name) for name in trace["sample"].values].index(sample.id)).compute()


def by_hand(trace: xr.Dataset, sample: Sample, source: Any, **how: Any) -> list[xr.DataArray]:
    one = traced(trace, sample)
    return [evidence_map(one, one["coverage"] if source is None else source, image_index=i, **how) for i in range(len(sample.images))]


def shown(sample: Sample, maps: Sequence[xr.DataArray]) -> Sample:
    pictures = zip(sample.open_images(), maps, strict=True)
    return Sample(sample.id, [highlight(picture, one) for picture, one in pictures], sample.question, sample.references, sample.regions)


def bare(answers: xr.Dataset) -> xr.Dataset:
    return answers.drop_vars(["seconds", "passes"]).drop_attrs().load()  # what it cost


def watching(seen: list[Any], what: Any) -> Method:
    def answer(batch: Batch) -> list[Reply]:
        seen.extend(what(batch))
        return [Reply(np.array([5, 3])) for _ in batch.samples]

    return Method("watching", "of a test", answer)


# ----------------------------------------------------------------------------------------------------- what it shows


@pytest.mark.parametrize("names", PAIRS, ids=" -> ".join)
def test_maps_are_those_of_the_other_models_trace(names: tuple[str, str]) -> None:
    """Exactly, for several pictures, a picture without evidence, and a trace in another order; and the answers are about what they show."""
    pair, bench = made(*names), questions()
    maps: list[Any] = []
    method = watching(maps, lambda batch: batch.maps)
    found = evaluate(pair.vlm, bench, ["vea", method], pair.profile, attribution=pair.trace, batch_size=2, max_new_tokens=STEPS)
    highlighted = []
    for sample, got in zip(bench, maps, strict=True):
        expected = by_hand(pair.trace, sample, pair.profile)
        assert len(got) == len(expected) == len(sample.images)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one.values, other.values)
        highlighted.append(shown(sample, expected))
    assert said(found, "vea") == pair.vlm.generate(highlighted, "vea", max_new_tokens=STEPS)
    told = interp.trace(pair.vlm, highlighted, prompt="vea", batch_size=2, max_new_tokens=1)
    np.testing.assert_allclose(found["reference_logprob"].sel({"method": "vea"}), told["reference_logprob"], atol=1e-5)
    pixels = [np.concatenate([gain(one).ravel() for one in several]).mean() for several in maps]
    np.testing.assert_allclose(found["mean_gain"].sel({"method": "vea"}), pixels)


def test_maps_are_not_ones_own(pair: Pair, answers: xr.Dataset) -> None:
    own = evaluate(pair.vlm, questions(), ["vea"], profiled(pair.vlm), max_new_tokens=1)
    assert (own["mean_gain"].values[0] != answers["mean_gain"].sel({"method": "vea"}).values).all()
    assert (own["profiled_auroc"].values[:3] != answers["profiled_auroc"].values[:3]).all()


def test_controls_follow_the_other_models_map(pair: Pair, answers: xr.Dataset) -> None:
    bench, pictures = questions(), {name: list[Sample]() for name in ("vea-shifted", "vea-uniform", "vea-boxes")}
    seeds: list[list[int]] = []
    seed = watching(seeds, lambda batch: [[batch.seed(k, i) for i in range(len(s.images))] for k, s in enumerate(batch.samples)])
    evaluate(pair.vlm, bench, [seed], max_new_tokens=2)
    for sample, own in zip(bench, seeds, strict=True):
        maps = by_hand(pair.trace, sample, pair.profile)
        pictures["vea-shifted"].append(shown(sample, [shift(one, s) for one, s in zip(maps, own, strict=True)]))
        pictures["vea-uniform"].append(shown(sample, [uniform(one) for one in maps]))
        coverage, image = (traced(pair.trace, sample)[name].values for name in ("coverage", "image_index"))
        maps = by_hand(pair.trace, sample, None, denoise=False)
        marked = [(coverage[image == i] > 0).any() for i in range(len(maps))]
        pictures["vea-boxes"].append(shown(sample, [one if yes else xr.ones_like(one) for one, yes in zip(maps, marked, strict=True)]))
    for name, asked in pictures.items():
        assert said(answers, name) == pair.vlm.generate(asked, "vea", max_new_tokens=STEPS), name
        told = interp.trace(pair.vlm, asked, prompt="vea", batch_size=2, max_new_tokens=1)
        np.testing.assert_allclose(answers["reference_logprob"].sel({"method": name}), told["reference_logprob"], atol=1e-5, err_msg=name)
    dimming = answers["mean_gain"]
    for name in ("vea-shifted", "vea-uniform"):
        np.testing.assert_allclose(dimming.sel({"method": name}), dimming.sel({"method": "vea"}), atol=1e-12)


def test_plain_answers_are_ones_own_and_need_no_rows(pair: Pair, answers: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = evaluate(pair.vlm, questions(), ["base", "inst"], batch_size=2, max_new_tokens=STEPS)
    two = answers.sel({"method": ["base", "inst"]})
    xr.testing.assert_identical(bare(two.drop_vars(["profiled_auroc", "shift_role"])), bare(plain))
    forward, rows = pair.vlm.hf_model.forward, []

    def watched(*inputs: Any, **named: Any) -> Any:
        rows.append("query_rows" in named)
        return forward(*inputs, **named)

    monkeypatch.setattr(pair.vlm.hf_model, "forward", watched)
    evaluate(pair.vlm, questions()[:2], ["base", "vea"], pair.profile, attribution=pair.trace, max_new_tokens=1)
    assert rows and not any(rows)
    evaluate(pair.vlm, questions()[:2], ["base"], profiled(pair.vlm), max_new_tokens=1)
    assert any(rows), "the watch sees a prefill that serves rows"


def test_its_own_trace_changes_nothing(pair: Pair) -> None:
    bench, profile = questions(), profiled(pair.vlm)
    trace = interp.trace(pair.vlm, bench, batch_size=2, max_new_tokens=1)  # with answers: the cache they need decides about last digits
    attributed = evaluate(pair.vlm, bench, ALL, profile, attribution=trace, batch_size=2, max_new_tokens=STEPS)
    plain = evaluate(pair.vlm, bench, ALL, profile, batch_size=2, max_new_tokens=STEPS)
    xr.testing.assert_identical(bare(attributed), bare(plain))
    more = {name for name in attributed.attrs if attributed.attrs[name] != plain.attrs.get(name)} - {"created", "settings_hash"}
    assert more == {f"attribution_{name}" for name in ("model", "revision", "family", "dtype", "prompt_order", "settings_hash", "digest")}


def test_a_batch_is_of_the_other_models_tokens(pair: Pair) -> None:
    found: list[Any] = []
    method = watching(
        found, lambda b: zip(b.attention, map(b.seen, range(len(b.samples))), map(b.tokens, range(len(b.samples))), strict=True)
    )
    evaluate(pair.vlm, questions(), [method], pair.profile, attribution=pair.trace, batch_size=3, max_new_tokens=2)
    for sample, (attention, seen, tokens) in zip(questions(), found, strict=True):
        one = traced(pair.trace, sample)
        length = int(one["n_token"])
        assert length == len(pair.other.encode(sample)) != len(pair.vlm.encode(sample))
        np.testing.assert_array_equal(attention, one["attention"].values[..., :length])
        np.testing.assert_array_equal(seen["attention"], attention)
        for name in ("token_box", "coverage", "view", "row", "col", "image_index"):
            np.testing.assert_array_equal(tokens[name], one[name].values[:length])
        assert tokens.sizes["image"] == len(sample.images) and "attention" not in tokens


def test_quality_is_of_the_other_models_map_on_the_regions_asked_about(pair: Pair, answers: xr.Dataset) -> None:
    """Regions are the benchmark's: those that the trace was made with do not count."""

    def expected(sample: Sample) -> float:
        one = traced(interp.trace(pair.other, [sample], answers=False), sample)
        marks, scores = one["coverage"].values, one["attention"].values[list(pair.profile.layers)].astype(float).mean((0, 1))
        real = ~np.isnan(marks)
        return float(roc_auc_score(marks[real] > 0, scores[real])) if (marks[real] > 0).any() else np.nan

    bench = questions()
    np.testing.assert_allclose(answers["profiled_auroc"], [expected(sample) for sample in bench], atol=1e-6)
    assert np.isfinite(answers["profiled_auroc"]).sum() >= 3
    width, height = bench[0].open_images()[0].size
    moved = Sample(bench[0].id, bench[0].images, bench[0].question, "one", boxes=[(0, 0, width / 2, height / 3)], image_id="moved")
    found = evaluate(pair.vlm, [moved], ["vea-boxes"], pair.profile, attribution=pair.trace, max_new_tokens=1)
    assert float(found["profiled_auroc"][0]) == pytest.approx(expected(moved), abs=1e-6)
    assert float(found["profiled_auroc"][0]) != pytest.approx(float(answers["profiled_auroc"][0]), abs=1e-3)


def test_provenance(pair: Pair, answers: xr.Dataset) -> None:
    kept = answers.attrs
    assert (kept["model"], kept["attribution_model"]) == ("tiny/llava", "tiny/qwen2_5_vl")
    assert kept["attribution_revision"] == pair.other.revision != kept["revision"] == pair.vlm.revision
    assert (kept["attribution_prompt"], kept["attribution_prompt_order"]) == ("base", "image-first")
    assert kept["attribution_settings_hash"] == pair.trace.attrs["settings_hash"]
    assert json.loads(kept["profile_layers"]) == list(pair.profile.layers)
    told = interp.trace(pair.other, questions()[:1], prompt="vea", answers=False)
    found = evaluate(pair.vlm, questions()[:1], ["base"], pair.profile, attribution=told, max_new_tokens=1)
    assert found.attrs["attribution_prompt"] == "vea"
    assert not [name for name in evaluate(pair.vlm, questions()[:1], ["base"], max_new_tokens=1).attrs if name == "attribution_model"]


# ------------------------------------------------------------------------------------------------------------ stores


def test_half_precision_on_disk_moves_a_map_by_less_than_a_level(pair: Pair, tmp_path: Path) -> None:
    bench = questions()
    stored = interp.trace(pair.other, bench, answers=False, batch_size=4, store=tmp_path / "half.zarr")
    maps: dict[str, list[Any]] = {"half": [], "single": []}
    for (name, seen), trace in zip(maps.items(), (stored, pair.trace), strict=True):
        evaluate(pair.vlm, bench, [watching(seen, lambda batch: batch.maps)], pair.profile, attribution=trace, max_new_tokens=2)
        assert seen, name
    worst = [float(np.nanmax(np.abs(a - b))) for one, other in zip(*maps.values(), strict=True) for a, b in zip(one, other, strict=True)]
    assert 0 < max(worst) < 1e-3


class Recorder:
    """An array that remembers which samples were read."""

    def __init__(self, values: np.ndarray, read: list[int]) -> None:
        self._values, self._read = values, read
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        self._read.extend(np.arange(self.shape[0])[key[0]].ravel().tolist())
        return self._values[key]


def test_attention_is_read_when_a_batch_needs_it(pair: Pair) -> None:
    """Beside the first, middle and last sample, which tell one attribution from another, nothing is read ahead, and nothing twice."""
    bench, read = [*questions(), *samples(4, seed=5)], list[int]()
    trace = interp.trace(pair.other, bench, answers=False)
    recorder = Recorder(trace["attention"].values, read)
    chunks: Any = (3, *recorder.shape[1:])
    lazy = dask.array.from_array(recorder, chunks=chunks, name=False, meta=np.empty(0, np.float32))  # pyright: ignore[reportPrivateImportUsage]
    trace = trace.assign(attention=(trace["attention"].dims, lazy))
    asked = bench[:8]  # the last is never looked at
    so_far: list[list[int]] = []

    def answer(batch: Batch) -> list[Reply]:
        assert len(batch.maps) == len(batch.profiled_auroc) == len(batch.samples)
        so_far.append(read.copy())
        return [Reply(np.array([5, 3])) for _ in batch.samples]

    evaluate(pair.vlm, asked, [Method("mine", "", answer)], pair.profile, attribution=trace, batch_size=2, max_new_tokens=2)
    told = [0, 4, 7]
    assert so_far == [told + list(range(n)) for n in (2, 4, 6, 8)]


def test_only_what_is_asked_is_read_from_a_store(pair: Pair, tmp_path: Path) -> None:
    bench = questions()
    stored = interp.trace(pair.other, bench, answers=False, store=tmp_path / "t.zarr")
    for chunk in (tmp_path / "t.zarr" / "trace" / "attention").glob("c.[34].*"):
        chunk.write_bytes(b"broken")
    found = evaluate(pair.vlm, bench[:3], ["vea"], pair.profile, attribution=stored, max_new_tokens=1)
    assert np.isfinite(found["mean_gain"]).all()
    with pytest.raises(StoreError, match="t.zarr' is damaged: 'attention' cannot be read"):
        evaluate(pair.vlm, bench[:4], ["vea"], pair.profile, attribution=stored, max_new_tokens=1)


class Interrupted(Exception):
    pass


def failing(after: int) -> Method:
    calls = iter(range(after))

    def answer(batch: Batch) -> Sequence[Reply]:
        if next(calls, None) is None:
            raise Interrupted
        return batch.ask("vea")

    return Method("own", "as inst", answer)


def test_a_run_resumes_with_the_same_attribution_only(pair: Pair, tmp_path: Path) -> None:
    bench, store = questions(), tmp_path / "answers.zarr"
    stored = interp.trace(pair.other, bench, answers=False, store=tmp_path / "trace.zarr")

    def run(after: int, where: Path | None, trace: xr.Dataset | None = stored, profile: Profile = pair.profile) -> xr.Dataset:
        return evaluate(
            pair.vlm, bench, ["vea", failing(after)], profile, attribution=trace, batch_size=2, max_new_tokens=STEPS, store=where
        )

    with pytest.raises(Interrupted):
        run(1, store)
    with pytest.raises(StoreError, match="2 of 5"):
        open_answers(store)
    own = replace(profiled(pair.vlm), layers=pair.profile.layers)
    with pytest.raises(StoreError, match="attribution_model is 'tiny/qwen2_5_vl' there and None here"):
        run(9, store, None, own)
    with pytest.raises(StoreError, match=r"other settings \(attribution_digest is '\w+' there and '\w+' here\)"):
        run(9, store, interp.trace(pair.other, bench, answers=False))  # the same, but in single precision
    turned = stored.assign(attention=stored["attention"].roll(head=1).roll(layer=1))
    with pytest.raises(StoreError, match="attribution_digest"):
        run(9, store, turned)
    again = tiny_vlm("qwen2_5_vl", seed=1)
    with pytest.raises(StoreError, match="attribution_revision"):
        run(9, store, interp.trace(again, bench, answers=False), replace(profiled(again), layers=pair.profile.layers))
    xr.testing.assert_identical(bare(run(9, store)), bare(run(9, None)))
    xr.testing.assert_identical(bare(run(0, store, interp.open_trace(tmp_path / "trace.zarr"))), bare(open_answers(store)))
    assert open_answers(store).attrs["attribution_model"] == "tiny/qwen2_5_vl"


def test_pictures_are_compared_again_where_a_run_resumes(pair: Pair, tmp_path: Path) -> None:
    """The identity is of three samples: a trace of another picture of a fourth must not slip in."""
    bench, store = questions(), tmp_path / "answers.zarr"

    def run(after: int, trace: xr.Dataset) -> xr.Dataset:
        return evaluate(pair.vlm, bench, [failing(after)], pair.profile, attribution=trace, batch_size=2, max_new_tokens=1, store=store)

    with pytest.raises(Interrupted):
        run(1, pair.trace)
    ids = [str(name) for name in pair.trace["sample"].values]
    digests = pair.trace["image_sha256"].astype(object).copy()
    digests[ids.index(bench[3].id), 0] = "0" * 64
    with pytest.raises(InterpError, match=f"attribution is of another picture of sample '{bench[3].id}'"):
        run(9, pair.trace.assign(image_sha256=digests))
    assert run(9, pair.trace).sizes["sample"] == len(bench)
    with pytest.raises(InterpError, match=f"Sample '{bench[3].id}' is not in the attribution"):  # even where all is answered
        run(0, pair.trace.isel(sample=[k for k, name in enumerate(ids) if name != bench[3].id]))


# ---------------------------------------------------------------------------------------------------------- refusals


def asked_otherwise(sample: Sample, **changes: Any) -> Sample:
    known = {"images": sample.images, "question": sample.question, "image_id": sample.image_id}
    return Sample(sample.id, references=sample.references, regions=sample.regions, **{**known, **changes})


def test_samples_that_the_other_model_was_not_asked(pair: Pair) -> None:
    def run(bench: Sequence[Sample]) -> None:
        evaluate(pair.vlm, bench, ["vea"], pair.profile, attribution=pair.trace, max_new_tokens=1)

    bench = questions()
    stranger, second = samples(2, seed=11)
    with pytest.raises(InterpError, match=f"Sample '{stranger.id}' is not in the attribution .a trace of 'tiny/qwen2_5_vl', 6 samples"):
        run([*bench, stranger, second])
    with pytest.raises(InterpError, match=f"was asked '{bench[1].question[:12]}.*' of sample '{bench[1].id}', not 'what else'"):
        run([bench[0], asked_otherwise(bench[1], question="what else"), bench[2]])
    turned = bench[1].open_images()[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with pytest.raises(InterpError, match=f"attribution is of another picture of sample '{bench[1].id}'"):
        run([bench[0], asked_otherwise(bench[1], images=turned)])
    with pytest.raises(InterpError, match=f"attribution is of another picture of sample '{bench[3].id}'"):
        run([Sample(bench[3].id, bench[3].images[:1], bench[3].question, "one")])  # one of its two


def test_profiles_of_another_model_are_refused(pair: Pair, tmp_path: Path) -> None:
    def run(profile: Profile | None, methods: Sequence[str] = ("base", "vea"), **options: Any) -> xr.Dataset:
        return evaluate(pair.vlm, questions()[:2], methods, profile, attribution=pair.trace, max_new_tokens=1, **options)

    of = "profile must be that of the model which attributes: Profile is of"
    with pytest.raises(InterpError, match=f"{of} model 'tiny/llava', but this is 'tiny/qwen2_5_vl'"):
        run(profiled(pair.vlm))
    with pytest.raises(InterpError, match=f"{of} revision 'else', but this is 'weights:"):
        run(replace(pair.profile, identity={**pair.profile.identity, "revision": "else"}))
    with pytest.raises(InterpError, match=f"{of} prompt order 'question-first', but this is 'image-first'"):
        run(replace(pair.profile, identity={**pair.profile.identity, "prompt_order": "question-first"}))
    with pytest.raises(InterpError, match="The attribution has no layer 40, which the profile names"):
        run(replace(pair.profile, layers=(1, 40)))
    with pytest.raises(InterpError, match="Method 'vea' needs a layer profile"):
        run(None)
    overlapping = replace(pair.profile, image_ids=("picture-0-0",))
    with pytest.raises(InterpError, match="fitted on 1 of the images it would judge"):
        run(overlapping)
    assert run(overlapping, allow_overlap=True).attrs["profile_overlap"] == "1"
    with pytest.raises(InterpError, match="fitted on 1 of the images"):  # and where a store is there, and samples are not encoded
        (tmp_path / "there.zarr").mkdir()
        run(overlapping, store=tmp_path / "there.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda trace: "run.zarr", "attribution is a str, not a trace; open a store with interp.open_trace"),
        (lambda trace: trace.isel(sample=0), r"lacks 'attention' \(sample, layer, head, token\)"),
        (lambda trace: trace.drop_vars("image_sha256"), r"lacks 'image_sha256' \(sample, image\)"),
        (lambda trace: trace.drop_attrs(), "does not say whose it is"),
        (lambda trace: trace.isel(sample=[0, 1, 2, 1]), "holds sample 'bare' more than once"),
    ],
    ids=["path", "one sample", "no digests", "no attributes", "twice"],
)
def test_what_is_no_attribution(pair: Pair, change: Any, message: str) -> None:
    with pytest.raises(InterpError, match=message):
        evaluate(pair.vlm, questions()[:1], ["vea"], pair.profile, attribution=change(pair.trace), max_new_tokens=1)


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interp.trace(pair.other, questions(), answers=False, store=tmp_path / "other.zarr")
    pair.profile.save(tmp_path / "other.json")
    monkeypatch.setattr(interp, "load_vlm", lambda *_, **__: pair.vlm)
    monkeypatch.setattr(interp, "load_benchmark", lambda *_, **__: questions())
    monkeypatch.chdir(tmp_path)
    asked = "evaluate --model m --benchmark digits --methods base,vea --max-new-tokens 1 --profile other.json --attribution other.zarr"
    app([*asked.split(), "--out", "answers.zarr"], exit_on_error=False, print_error=False, result_action="return_value")
    found = open_answers("answers.zarr")
    assert found.attrs["attribution_model"] == "tiny/qwen2_5_vl" and json.loads(found.attrs["settings"])["attribution"] == "other.zarr"
    assert "--attribution other.zarr" in json.loads(Path("answers.zarr/zarr.json").read_text())["attributes"]["resume"]
    with pytest.raises(StoreError, match="nowhere.zarr"):
        app([*asked.replace("other.zarr", "nowhere.zarr").split(), "--out", "b.zarr"], exit_on_error=False, print_error=False)


# ------------------------------------------------------------------------------------------------------- experiment


def test_the_experiments_tables(pair: Pair, answers: xr.Dataset) -> None:
    own = evaluate(pair.vlm, questions(), ALL[:4], profiled(pair.vlm), batch_size=2, max_new_tokens=1)
    # answers of random models are all wrong: scores from which every difference is known
    own["exact_match"][:] = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    theirs = answers.copy(deep=True)
    theirs["exact_match"][:] = np.array([[1, 1, 1, 1, 1]] * 2 + [[0, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = side_by_side(own, theirs)
    assert dict(zip(found["method"].values.tolist(), found["exact_match"].sum("sample").values.tolist(), strict=True)) == {
        **{"base": 1, "inst": 2, "vea": 3, "vea-shifted": 0},
        **{"vea by delegate": 4, "vea-shifted by delegate": 1},
    }
    pairs = paired(found)
    names = ["vea by delegate less vea", "vea by delegate less vea-shifted by delegate", "vea less vea-shifted"]
    assert pairs["pair"].values.tolist() == names
    np.testing.assert_allclose(pairs["difference"], [0.2, 0.6, 0.6])
    assert pairs["wins"].values.tolist() == [1, 3, 3] and (pairs["losses"] == 0).all()
    quality = map_quality(own, theirs)
    aurocs = np.array([own["profiled_auroc"].values, theirs["profiled_auroc"].values])
    np.testing.assert_allclose(quality["mean"][:2], np.nanmean(aurocs, axis=1))
    assert float(quality["mean"][2]) == pytest.approx(np.nanmean(aurocs[1] - aurocs[0]))
    text = described(theirs, mean_interval(found["exact_match"], found["image_id"]), pairs, quality)
    assert text.startswith("Attributing: tiny/qwen2_5_vl (image-first). Answering: tiny/llava (image-first). Benchmark synthetic")
    assert "the same weights" not in text and "| vea by delegate | 0.800 [" in text
    one = theirs.assign_attrs({f"attribution_{name}": theirs.attrs[name] for name in ("model", "revision")})
    assert "the same weights" in described(one, mean_interval(found["exact_match"], found["image_id"]), pairs, quality)
