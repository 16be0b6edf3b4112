"""Attention knock-out is a plain eager run with an additive mask, in every family; and it finds what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import interp
from interp.analysis import knockout_effect
from interp.benchmarks.sample import Sample
from interp.errors import BenchmarkError, CaptureError, InterpError
from interp.interventions import knockout
from interp.interventions.edges import Cut, Edges, serving_edges
from interp.testing import TINY, carrying_head, samples, tiny_vlm
from interp.vlm import VLM

tiny = cache(tiny_vlm)
_TYPES = ("token_type_ids", "mm_token_type_ids")


def forced_inputs(vlm: VLM, sample: Sample, answer: Sequence[int]) -> dict[str, torch.Tensor]:
    inputs = vlm.batch([vlm.encode(sample)])
    more = torch.tensor([list(answer)], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in _TYPES:
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros_like(more)], dim=1)
    return inputs


@torch.no_grad()
def eager_logits(vlm: VLM, inputs: dict[str, torch.Tensor], steps: int, layers: Sequence[int], rows: Any, keys: Any) -> torch.Tensor:
    """(step, vocabulary) of eager attention whose additive masks lose the edges rows x keys in some layers."""

    def cut(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        before, mask = kwargs["attention_mask"], kwargs["attention_mask"].clone()
        for row in rows:
            mask[:, :, row, list(keys)] = torch.finfo(mask.dtype).min
            mask[:, :, row, row] = before[:, :, row, row]  # a token keeps the edge to itself
        return args, {**kwargs, "attention_mask": mask}

    before = vlm.hf_model.config.get_text_config()._attn_implementation
    vlm.hf_model.set_attn_implementation({"text_config": "eager"})
    hooks = [vlm.layers[layer].self_attn.register_forward_pre_hook(cut, with_kwargs=True) for layer in layers]
    try:
        return vlm.hf_model(**inputs, use_cache=False).logits[0, -steps:]
    finally:
        for hook in hooks:
            hook.remove()
        vlm.hf_model.set_attn_implementation({"text_config": before})


def block_tokens(vlm: VLM, sample: Sample, block: str) -> list[int]:
    traced = interp.trace(vlm, [sample], answers=False)
    coverage, segment = traced["coverage"].values[0], traced["segment"].values[0]
    chosen = {"evidence": coverage > 0, "other": (segment == 1) & ~(coverage > 0), "image": segment == 1, "question": segment == 2}
    return np.flatnonzero(chosen[block]).tolist()


def numbers(row: xr.Dataset, logits: torch.Tensor, clean: torch.Tensor) -> tuple[float, float, float]:
    wanted = row["reference_ids"].values[row["reference_ids"].values >= 0].tolist()
    step, foil = int(row["foil_position"]), row["foil_ids"].values

    def score(each: torch.Tensor) -> float:
        return float(sum(each[i].log_softmax(-1)[token] for i, token in enumerate(wanted)))

    def difference(each: torch.Tensor) -> float:
        return float(each[step, wanted[step]] - each[step, foil[step]])

    changed = (logits.argmax(-1) != clean.argmax(-1)).any()
    return score(logits) - score(clean), difference(logits) - difference(clean), float(changed)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(("to", "blocks", "window"), [("last", ("evidence", "question"), 2), ("question", ("image", "question"), 3)])
def test_it_is_an_eager_run_with_a_mask(family: str, to: str, blocks: tuple[str, ...], window: int) -> None:
    vlm, sample = tiny(family), samples(3)[0]
    found = knockout(vlm, [sample], block=blocks, to=to, window=window, batch_size=3).isel(sample=0)
    steps = int((found["reference_ids"] >= 0).sum())
    inputs = forced_inputs(vlm, sample, found["reference_ids"].values[: steps - 1].tolist())
    clean = eager_logits(vlm, inputs, steps, [], [], [])
    length = len(vlm.encode(sample))
    rows = range(length - 1, length + steps - 1) if to == "last" else block_tokens(vlm, sample, "question")
    before, behind = {2: (0, 1), 3: (1, 1)}[window]
    for name in blocks:
        keys = block_tokens(vlm, sample, name)
        for layer in range(vlm.n_layers):
            layers = range(max(layer - before, 0), min(layer + behind + 1, vlm.n_layers))
            expected = numbers(found, eager_logits(vlm, inputs, steps, layers, rows, keys), clean)
            got = [float(found[effect].sel(block=name, layer=layer)) for effect in ("delta_logprob", "delta_logit_diff", "flip")]
            np.testing.assert_allclose(got, expected, atol=3e-5, err_msg=f"{name} at layer {layer}")
    assert (np.abs(found["delta_logprob"].values).max(-1) > 3e-4).all()


def test_queries_inside_a_picture_that_sees_itself() -> None:
    """Tokens before the first query see it there, so they are carried too."""
    vlm, sample = tiny("gemma3"), samples(1)[0]
    image = block_tokens(vlm, sample, "image")
    inputs = forced_inputs(vlm, sample, [])
    with serving_edges(vlm.hf_model):
        edges = Edges(vlm, inputs, image[2:], 1)
        (which, logits, clean), *_ = edges.run([Cut(range(1, 3), (image[3],))], 8)
    expected = eager_logits(vlm, inputs, 1, [1, 2], image[2:], [image[3]])
    assert which == [0] and float((logits[0] - clean).abs().max()) > 1e-3
    torch.testing.assert_close(logits[0], expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("blocks", [("evidence",), ("question", "other")])
def test_hidden_from_all_text(blocks: tuple[str, ...]) -> None:
    """Words before the first hidden token cannot see it, so no run carries the picture behind them."""
    vlm, sample = tiny("gemma3"), samples(1)[0]
    carried: list[int] = []
    hook = vlm.layers[3].register_forward_pre_hook(lambda _, args: carried.append(args[0].shape[1]))
    try:
        found = knockout(vlm, [sample], block=blocks, to="text", window=2).isel(sample=0)
    finally:
        hook.remove()
    reference = found["reference_ids"].values[found["reference_ids"].values >= 0].tolist()
    inputs, segment = forced_inputs(vlm, sample, reference[:-1]), interp.trace(vlm, [sample], answers=False)["segment"].values[0]
    length = inputs["input_ids"].shape[1]
    rows = [*np.flatnonzero(segment != 1).tolist(), *range(len(segment), length)]
    clean = eager_logits(vlm, inputs, len(reference), (), (), ())
    for index, block in enumerate(blocks):
        logits = eager_logits(vlm, inputs, len(reference), (1, 2), rows, block_tokens(vlm, sample, block))
        got = found.isel(block=index, layer=1)
        wanted = numbers(found, logits, clean)
        assert abs(wanted[0]) > 1e-4
        assert (float(got["delta_logprob"]), float(got["delta_logit_diff"])) == pytest.approx(wanted[:2], abs=1e-4)
    assert carried[-1] == length - 1 - np.flatnonzero(segment == 1).max()


@pytest.mark.parametrize("family", TINY)
def test_without_any_edge_to_a_picture_the_answer_does_not_depend_on_it(family: str) -> None:
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(2)]
    pair = [Sample(f"{i}", picture, "what is the digit ?", "one two", boxes=[(3, 3, 30, 30)]) for i, picture in enumerate(pictures)]
    found = knockout(tiny(family), pair, block="image", to="text", window=99)
    plain, cut = found["reference_logprob"].values, found["delta_logprob"].sel(block="image").values
    assert abs(plain[0] - plain[1]) > 1e-3
    left = plain[:, None] + cut
    np.testing.assert_allclose(left[0], left[1], atol=1e-5)
    np.testing.assert_array_equal(left, left[:, :1].repeat(left.shape[1], 1))  # every window is the same


@pytest.mark.parametrize("n_images", [1, 2])
def test_blocking_nothing_changes_nothing(n_images: int) -> None:
    asked = [replace_regions(sample) for sample in samples(3, n_images=n_images)]
    vlm = tiny_vlm("llava", prompt_order="question-first")
    found = knockout(vlm, asked, block=("image", "evidence", "control", "other"), to="question", window=2)
    assert (found["delta_logprob"].sel(block="image") == 0).all()  # the question comes before the pictures
    assert (found["delta_logit_diff"].sel(block="image") == 0).all()
    assert (found["flip"].sel(block="image") == 0).all()
    assert found["delta_logprob"].sel(block=["evidence", "control", "other"]).isnull().all()
    assert found.attrs["n_undefined"] == 3
    traced = interp.trace(vlm, asked)
    np.testing.assert_allclose(found["reference_logprob"], traced["reference_logprob"], atol=1e-4)
    assert found["prediction"].values.tolist() == traced["prediction"].values.tolist()
    assert found["image_id"].values.tolist() == traced["image_id"].values.tolist()


def replace_regions(sample: Sample) -> Sample:
    return Sample(sample.id, sample.images, sample.question, sample.references, image_id=sample.image_id)


def half(share: float, name: str = "half") -> Sample:
    """A picture of the tiny model's own size, 4 x 4 tokens, of which evidence covers the left ones."""
    picture = samples(1)[0].open_images()[0].resize((28, 28))
    return Sample(name, picture, "what is the digit ?", "one", boxes=[(0, 0, 28 * share, 28)])


def test_a_control_is_as_large_as_the_evidence_and_outside_of_it() -> None:
    blocks = ("evidence", "control", "other")
    found = knockout(tiny("llava"), [half(0.5), half(0.75, "more")], block=blocks, window=2, n_controls=3)
    assert found["n_blocked"].values.tolist()[0] == [8, 8, 8]
    first = found.isel(sample=0)
    evidence, control, other = first["delta_logprob"].values
    np.testing.assert_allclose(control, other, atol=1e-6)
    assert np.abs(control - evidence).max() > 1e-3
    assert first["control_delta_logprob"].std("draw").max() < 1e-6  # there is but one such set
    second = found.isel(sample=1)
    assert second["delta_logprob"].sel(block="control").isnull().all() and second["control_delta_logprob"].isnull().all()
    assert second["delta_logprob"].sel(block="evidence").notnull().all()
    assert found["delta_logprob"].sel(block="control").notnull().any("layer").values.tolist() == [True, False]
    assert found.attrs["n_undefined"] == 0


def test_controls_are_drawn_for_each_sample_by_itself() -> None:
    vlm, asked = tiny("internvl"), samples(3)
    whole = knockout(vlm, asked, block="control", window=1, n_controls=4)
    assert float(whole["control_delta_logprob"].std("draw").max()) > 1e-3
    np.testing.assert_allclose(whole["delta_logprob"][:, 0], whole["control_delta_logprob"].mean("draw"))
    alone = knockout(vlm, asked[1:2], block="control", window=1, n_controls=4, batch_size=1)
    np.testing.assert_allclose(whole["control_delta_logprob"][1], alone["control_delta_logprob"][0], atol=1e-5)
    again = knockout(vlm, asked[1:2], block="control", window=1, n_controls=4, seed=1)
    assert float(np.abs(again["control_delta_logprob"] - alone["control_delta_logprob"]).max()) > 1e-3


def test_the_foil() -> None:
    vlm, asked = tiny("llava"), samples(2)
    said = vlm.generate(asked[0])
    right = Sample("right", asked[0].images, asked[0].question, said, asked[0].regions)
    found = knockout(vlm, [asked[0], right], block="evidence")
    answered = interp.trace(vlm, [asked[0], right])
    assert found["exact_match"].values.tolist() == [0, 1]
    ids = answered["answer_ids"].values[0]
    foil = found["foil_ids"].values
    assert foil[0][foil[0] >= 0].tolist() == ids[ids >= 0].tolist()  # its own wrong answer
    with torch.no_grad():
        first = vlm.hf_model(**vlm.batch([vlm.encode(right)])).logits[0, -1]
    best, second = first.topk(2).indices.tolist()
    assert found["reference_ids"].values[1][0] == best and foil[1].tolist()[:2] == [second, -1]
    assert float(found["logit_diff"][1]) == pytest.approx(float(first[best] - first[second]), abs=1e-4)
    assert float(found["logit_diff"][0]) < 0  # greedy would not have said the foil otherwise


def test_an_answer_cut_off_before_it_parts_has_no_foil() -> None:
    vlm, asked = tiny("llava"), samples(1)[0]
    said = vlm.generate(asked).split()
    longer = Sample("longer", asked.images, asked.question, f"{said[0]} one one one", asked.regions)
    found = knockout(vlm, [longer], block="evidence", max_new_tokens=1)
    assert int(found["foil_position"][0]) == -1 and bool(found["logit_diff"].isnull())
    assert found["delta_logit_diff"].isnull().all() and found["delta_logprob"].notnull().all()


def test_the_head_that_carries_the_answer_is_found() -> None:
    vlm, (carrier, _), asked = carrying_head()
    found = knockout(vlm, asked, block=("evidence", "control", "question"), window=1)
    assert (found["exact_match"] == 1).all()
    effect = found["delta_logit_diff"].mean("sample").transpose("block", "layer").values
    assert effect[0].argmin() == carrier and effect[0, carrier] < -1
    assert np.abs(np.delete(effect[0], carrier)).max() < 0.2 * -effect[0, carrier]
    assert np.abs(effect[1:]).max() < 0.3 * -effect[0, carrier]


def test_the_model_is_left_as_it_was_and_half_precision_works() -> None:
    vlm = tiny_vlm("qwen3_vl", dtype=torch.bfloat16)
    found = knockout(vlm, samples(1), block="image", window=4)
    assert vlm.hf_model.config.get_text_config()._attn_implementation == "sdpa"
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in vlm.layers)
    exact = knockout(tiny("qwen3_vl"), samples(1), block="image", window=4)
    np.testing.assert_allclose(found["delta_logprob"], exact["delta_logprob"], atol=0.5)


def test_a_decoder_that_does_more_than_its_layers_is_refused() -> None:
    vlm = tiny_vlm("llava")
    hook = vlm.hf_model.register_forward_hook(lambda module, args, output: output.__setitem__("logits", 2 * output.logits))
    try:
        with pytest.raises(CaptureError, match="gives other logits than its own"):
            knockout(vlm, samples(1), block="image")
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": "colour"}, "Block 'colour' is unknown; use some of evidence, control"),
        ({"block": ()}, "names none, or one twice"),
        ({"block": ("image", "image")}, "names none, or one twice"),
        ({"to": "first"}, "to='first' is unknown; use last, question, text"),
        ({"window": 0}, "window=0 is not a number to work with"),
        ({"n_controls": 0}, "n_controls=0"),
        ({"rule": "most"}, "Overlap rule 'most' is unknown"),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        knockout(tiny("llava"), samples(1), **given)


def test_an_empty_benchmark() -> None:
    with pytest.raises(BenchmarkError, match="has no samples"):
        knockout(tiny("llava"), [])


def planted_effects(n: int = 60, right: float = -2.0, wrong: float = -0.5, seed: int = 0) -> xr.Dataset:
    """Effects of which the evidence's exceed the control's by `right` or `wrong` at layer 1, and not at all at layer 0."""
    rng = np.random.default_rng(seed)
    match = np.arange(n) % 2 == 0
    shared = rng.normal(0, 1, (n, 1, 2))
    values = shared + rng.normal(0, 0.1, (n, 2, 2))
    values[:, 0, 1] += np.where(match, right, wrong)
    values[4, 1] = np.nan
    return xr.Dataset(
        {
            "delta_logprob": (("sample", "block", "layer"), values, {"units": "nat", "long_name": "change"}),
            "exact_match": ("sample", match.astype(float)),
        },
        coords={
            "sample": np.array([f"{i}" for i in range(n)], dtype=np.dtypes.StringDType()),
            "image_id": ("sample", np.array([f"{i // 2}" for i in range(n)], dtype=np.dtypes.StringDType())),
            "block": np.array(["evidence", "control"], dtype=np.dtypes.StringDType()),
            "layer": [0, 1],
        },
    )


def test_the_effect_beyond_the_control_is_recovered() -> None:
    result = planted_effects()
    found = knockout_effect(result, n_permutations=200, n_resamples=400)
    np.testing.assert_allclose(found["excess"].sel(layer=1), [-2.0, -0.5], atol=0.1)
    np.testing.assert_allclose(found["excess"].sel(layer=0), 0, atol=0.1)
    assert found["excess_n"].sel(group="correct").values.tolist() == [29, 29]
    low, high = found["excess_interval"].sel(layer=1).values
    assert (low < [-2.0, -0.5]).all() and (high > [-2.0, -0.5]).all() and (high - low < 0.15).all()  # paired: what both share is gone
    assert (np.diff(found["interval"].sel(layer=1, block="evidence"), axis=0) > 0.4).all()
    np.testing.assert_allclose(found["excess_difference"], [0, -1.5], atol=0.1)
    assert float(found["excess_p_value"][1]) < 0.02
    values = result["delta_logprob"].values
    np.testing.assert_allclose(found["mean"].sel(group="wrong", block="evidence"), values[1::2, 0].mean(0))
    assert found.attrs["effect"] == "delta_logprob"


def test_effects_need_both_blocks() -> None:
    with pytest.raises(InterpError, match="has no block 'control'"):
        knockout_effect(planted_effects().isel(block=[0]))
    with pytest.raises(InterpError, match="Effect 'flips' is not in this result"):
        knockout_effect(planted_effects(), "flips")
