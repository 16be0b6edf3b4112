"""Activation patching is what plain PyTorch hooks do, in every family and at every site; and it finds what was planted."""

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
from interp.benchmarks.digits import another_digit
from interp.benchmarks.sample import Sample
from interp.errors import AlignmentError, BenchmarkError, InterpError
from interp.interventions import Pair, arm_pairs, digit_pairs, highlight_pairs, patch
from interp.testing import TINY, carrying_head, samples, tiny_vlm
from interp.vlm import VLM

tiny = cache(tiny_vlm)
GROUPS = ("evidence", "other", "image", "question", "last", "all")


def noise(seed: int, size: tuple[int, int] = (56, 42)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def a_pair(n_images: int = 1, foil: str | None = "one three") -> Pair:
    """The same question about two different pictures; the two answers share their first token."""
    boxes = [(0.0, 0.0, 20.0, 20.0)]
    clean, corrupted = (
        Sample(name, [noise(seed + k) for k in range(n_images)], "what is the digit on the card ?", "one", boxes=boxes)
        for name, seed in (("clean", 0), ("corrupted", 10))
    )
    return Pair("pair", clean, corrupted, "one two", foil)


def positions(vlm: VLM, sample: Sample, n_more: int) -> dict[str, list[int]]:
    traced = interp.trace(vlm, [sample], answers=False)
    coverage, segment = traced["coverage"].values[0], traced["segment"].values[0]
    n = len(segment)
    marked = {"evidence": coverage > 0, "other": coverage == 0, "image": segment == 1, "question": segment == 2}
    # separators of a picture are no evidence, and stand for no region
    marked["other"] = marked["image"] & ~marked["evidence"]
    found = {name: np.flatnonzero(chosen).tolist() for name, chosen in marked.items()}
    return {**found, "last": list(range(n - 1, n + n_more)), "all": list(range(n + n_more))}


def inputs_of(vlm: VLM, sample: Sample, more: Sequence[int]) -> dict[str, torch.Tensor]:
    inputs = vlm.batch([vlm.encode(sample)])
    after = torch.tensor([list(more)], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], after], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros_like(after)], dim=1)
    return inputs


def modules(vlm: VLM, site: str) -> list[Any]:
    parts = {
        "residual": lambda layer: layer,
        "attention": lambda layer: layer.self_attn,
        "mlp": lambda layer: layer.mlp,
        "head": lambda layer: layer.self_attn.o_proj,
    }
    return [parts[site](layer) for layer in vlm.layers]


@torch.no_grad()
def hooked(vlm: VLM, inputs: dict[str, torch.Tensor], site: str, layer: int | None, change: Any) -> torch.Tensor:
    """Last logits of a run in which `change(tensor)` is what a site gives (or takes, for heads); in all layers where `layer` is None."""
    handles = []
    for number, module in enumerate(modules(vlm, site)):
        if layer is None or number == layer:
            if site == "head":
                handles.append(module.register_forward_pre_hook(lambda _, args: (change(args[0]),)))
            elif site == "attention":
                handles.append(module.register_forward_hook(lambda _, args, output: (change(output[0]), *output[1:])))
            else:
                handles.append(module.register_forward_hook(lambda _, args, output: change(output)))
    try:
        return vlm.hf_model(**inputs, use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", TINY)
def test_it_is_what_hooks_do(family: str) -> None:
    vlm, pair = tiny(family), a_pair()
    one, two, three = vlm.processor.tokenizer.convert_tokens_to_ids(["one", "two", "three"])
    clean, corrupted = inputs_of(vlm, pair.clean, [one]), inputs_of(vlm, pair.corrupted, [one])
    at = positions(vlm, pair.corrupted, 1)
    width = vlm.layers[0].self_attn.head_dim

    def difference(logits: torch.Tensor) -> float:
        return float(logits[two] - logits[three])

    for site, layers in {"residual": (0, 2), "attention": (1,), "mlp": (3,), "head": (2,)}.items():
        kept: list[torch.Tensor] = []

        def keep(value: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(value.clone())
            return value

        ends = [difference(hooked(vlm, clean, site, None, keep)), difference(hooked(vlm, corrupted, site, None, lambda value: value))]
        groups = GROUPS if site == "residual" else ("question",) if site == "head" else ("evidence", "last")
        found = patch(vlm, [pair], site=site, tokens=groups, layers=layers, batch_size=10, min_difference=1e-6).isel(pair=0)
        assert float(found["logit_diff_clean"]) == pytest.approx(ends[0], abs=1e-5)
        assert float(found["logit_diff_corrupted"]) == pytest.approx(ends[1], abs=1e-5)
        for layer in layers:
            for group in groups:
                for head in range(vlm.n_heads) if site == "head" else [None]:
                    part = slice(None) if head is None else slice(head * width, (head + 1) * width)

                    def change(value: torch.Tensor, source: torch.Tensor = kept[layer], group: str = group, part: slice = part) -> Any:
                        value = value.clone()
                        value[:, at[group], part] = source[:, at[group], part]
                        return value

                    expected = difference(hooked(vlm, corrupted, site, layer, change))
                    one_run = found.sel({"layer": layer, "group": group} | ({} if head is None else {"head": head}))
                    assert float(one_run["logit_diff"]) == pytest.approx(expected, abs=2e-5), (site, layer, group, head)
                    share = (expected - ends[1]) / (ends[0] - ends[1])
                    assert float(one_run["recovery"]) == pytest.approx(share, abs=1e-3), (site, layer, group, head)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_all_of_the_stream_is_all_there_is(family: str, direction: str) -> None:
    found = patch(tiny(family), [a_pair()], tokens=("all", "last"), direction=direction, min_difference=1e-3)["recovery"][0]
    np.testing.assert_allclose(found.isel(layer=-1), 1, atol=1e-3)
    # vision features added behind a layer are those of the run that is patched
    added = 2 if family == "qwen3_vl" else 0
    np.testing.assert_allclose(found.sel(group="all")[added:], 1, atol=1e-3)
    assert added == 0 or abs(float(found.sel(group="all")[0]) - 1) > 1e-2
    assert abs(float(found.sel(group="last")[0]) - 1) > 1e-3


def test_patching_what_is_equal_changes_nothing() -> None:
    vlm = tiny_vlm("llava", prompt_order="question-first")
    for site in ("residual", "attention", "mlp"):  # the question comes before the pictures, so both runs agree on it
        found = patch(vlm, [a_pair(2)], site=site, tokens="question", min_difference=1e-3)["recovery"]
        assert found.dims == ("pair", "layer")
        np.testing.assert_allclose(found, 0, atol=1e-5)


def test_noising_is_denoising_of_the_pair_turned_round() -> None:
    vlm, pair = tiny("internvl"), a_pair()
    turned = Pair("turned", pair.corrupted, pair.clean, "one three", "one two")
    there = patch(vlm, [pair], direction="noising", min_difference=1e-3)
    back = patch(vlm, [turned], direction="denoising", min_difference=1e-3, batch_size=1)
    np.testing.assert_allclose(there["recovery"], back["recovery"], atol=1e-4)
    np.testing.assert_allclose(there["logit_diff"], -back["logit_diff"], atol=1e-5)
    assert float(there["logit_diff_clean"][0]) == pytest.approx(-float(back["logit_diff_corrupted"][0]), abs=1e-5)


def test_the_head_that_carries_the_answer_is_found() -> None:
    vlm, (layer, head), asked = carrying_head()
    pairs = [Pair(a.id, a, b, a.references[0], b.references[0]) for a, b in zip(asked[::2], asked[1::2], strict=True)]
    heads = patch(vlm, pairs, site="head", tokens="last")["recovery"].mean("pair")
    assert heads.dims == ("layer", "head")
    assert float(heads[layer, head]) > 0.9 and float(np.abs(heads).sum() - abs(heads[layer, head])) < 0.2
    stream = patch(vlm, pairs)["recovery"].mean("pair").transpose("group", "layer")
    by_group = dict(zip(stream["group"].values.tolist(), stream.values, strict=True))
    assert (by_group["evidence"][:layer] > 0.9).all() and (np.abs(by_group["evidence"][layer:]) < 0.1).all()
    assert (np.abs(by_group["last"][:layer]) < 0.1).all() and (by_group["last"][layer:] > 0.9).all()
    assert (np.abs(by_group["other"]) < 0.1).all()


def test_pairs_without_a_difference_are_counted() -> None:
    vlm, pair = tiny("llava"), a_pair()
    same = Pair("same", pair.clean, Sample("copy", pair.clean.images, pair.clean.question, "one"), "one two", "one three")
    agreed = Pair("agreed", pair.clean, pair.corrupted, "one", "one")
    found = patch(vlm, [pair, same, agreed], tokens=("last", "evidence"), layers=[3, 1], min_difference=1e-3)
    assert found.attrs["n_undefined"] == 2
    assert found["recovery"].notnull().all(["layer", "group"]).values.tolist() == [True, False, False]
    assert found["logit_diff"].isnull().all(["layer", "group"]).values.tolist() == [False, False, True]
    assert found["layer"].values.tolist() == [3, 1]
    whole = patch(vlm, [pair], tokens=("last", "evidence"), min_difference=1e-3)
    np.testing.assert_allclose(found["recovery"][0], whole["recovery"][0].sel(layer=[3, 1]), atol=1e-4)


def test_a_group_without_tokens_is_undefined() -> None:
    pair = a_pair()
    clean, corrupted = (Sample(each.id, each.images, each.question, "one") for each in (pair.clean, pair.corrupted))
    found = patch(tiny("llava"), [Pair("bare", clean, corrupted, "one two", "one three")], min_difference=1e-3)
    assert found["recovery"].isnull().all(["pair", "layer"]).values.tolist() == [True, False, False, False, False]
    assert found["n_tokens"].values[0].tolist()[:2] == [0, 16]
    marked = patch(tiny("llava"), [Pair("half", pair.clean, corrupted, "one two", "one three")], tokens="evidence", layers=[0])
    both = patch(tiny("llava"), [pair], tokens="evidence", layers=[0])
    assert marked["n_tokens"].values.tolist() == both["n_tokens"].values.tolist() != [0]


def test_the_model_s_own_answer_is_the_foil() -> None:
    vlm, pair = tiny("llava"), a_pair(foil=None)
    found = patch(vlm, [pair], tokens="last", min_difference=1e-6)
    said = vlm.generate(pair.corrupted)
    assert str(found["corrupted_answer"].values[0]) == said
    assert float(found["logit_diff_corrupted"][0]) < 0
    with torch.no_grad():
        first = vlm.hf_model(**vlm.batch([vlm.encode(pair.corrupted)])).logits[0, -1]
    one = vlm.processor.tokenizer.convert_tokens_to_ids("one")
    assert float(found["logit_diff_corrupted"][0]) == pytest.approx(float(first[one] - first.max()), abs=1e-4)


def test_prompts_that_do_not_match_are_refused() -> None:
    pair = a_pair()
    longer = Sample("longer", pair.clean.images, "what is the digit on the red card ?", "one")
    with pytest.raises(AlignmentError, match=r"Pair 'p' cannot be patched: the prompts have \d+ and \d+ tokens"):
        patch(tiny("llava"), [Pair("p", longer, pair.corrupted, "one", "two")])
    wide, high = (Sample(f"{size}", noise(0, size), "what is it ?", "one") for size in ((80, 40), (40, 80)))
    with pytest.raises(AlignmentError, match="visual tokens stand for other places"):
        patch(tiny("qwen2_5_vl"), [Pair("p", wide, high, "one", "two")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"site": "values"}, "site='values' is unknown; use residual, attention, mlp, head"),
        ({"direction": "sideways"}, "direction='sideways' is unknown"),
        ({"tokens": "words"}, "Token group 'words' is unknown; use some of evidence"),
        ({"tokens": ["last", "last"]}, "names none, or one twice"),
        ({"layers": [4]}, r"layers=\[4\] must name each layer once, from 0 to 3"),
        ({"layers": []}, "must name each layer once"),
        ({"min_difference": 0.0}, "would divide by nothing"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"rule": "most"}, "Overlap rule 'most' is unknown"),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        patch(tiny("llava"), [a_pair()], **given)


def test_no_pairs_and_pairs_of_one_name() -> None:
    with pytest.raises(BenchmarkError, match="no pairs to patch"):
        patch(tiny("llava"), [])
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        patch(tiny("llava"), [a_pair(), a_pair()], tokens="last")


# ------------------------------------------------------------------------------------------------------ pairs of digits


def test_another_digit_changes_one_place_of_the_picture() -> None:
    asked = [sample for sample in interp.load_benchmark("digits", split="test", limit=50) if not sample.knobs["absent"]][:20]
    seen = set()
    for sample in asked:
        other = another_digit(sample)
        said, now = (each.references[0].split() for each in (sample, other))
        changed = [place for place, (a, b) in enumerate(zip(said, now, strict=True)) if a != b]
        assert len(changed) == 1
        card = sample.evidence[0]
        assert [r.box for r in sample.regions] == [r.box for r in other.regions] and other.evidence[0].text == other.references[0]
        apart = (np.asarray(sample.open_images()[0]) != np.asarray(other.open_images()[0])).any(-1)
        rows, cols = np.nonzero(apart)
        x0, y0, x1, y1 = card.box if len(said) == 1 else sample.evidence[1 + changed[0]].box
        assert apart.any() and x0 <= cols.min() and cols.max() < x1 and y0 <= rows.min() and rows.max() < y1
        assert (other.question, other.image_id, other.split) == (sample.question, sample.image_id, sample.split)
        assert other.id != sample.id and other.knobs["arm"] == ""
        seen.add(len(said))
    assert seen == {1, 2, 3}
    first = another_digit(asked[0])
    assert first.references == another_digit(asked[0]).references
    assert len({another_digit(asked[0], seed).references for seed in range(6)}) > 1


def test_digits_that_cannot_be_exchanged() -> None:
    absent = next(sample for sample in interp.load_benchmark("digits", split="test", limit=50) if sample.knobs["absent"])
    with pytest.raises(BenchmarkError, match="asks about a card that is not there"):
        another_digit(absent)
    with pytest.raises(BenchmarkError, match="is not of benchmark 'digits'"):
        another_digit(samples(1)[0])
    assert digit_pairs([absent]) == []


def test_pairs_of_arms() -> None:
    bench = interp.load_benchmark("digits", split="test", limit=50)
    pairs = arm_pairs(bench)
    assert len(pairs) == 6
    for pair in pairs:
        assert (pair.clean.knobs["arm"], pair.corrupted.knobs["arm"]) == ("neutral", "conflict")
        assert pair.clean.image_id == pair.corrupted.image_id and pair.clean.references == pair.corrupted.references
        assert pair.clean_answer == pair.clean.references[0]
        assert pair.corrupted_answer == str(pair.corrupted.knobs["prior_digit"]) != pair.clean_answer
    for foreign in ("neutral", "congruent"):  # no prior digit, or the right one
        assert [pair.corrupted_answer for pair in arm_pairs(bench, "conflict", foreign)] == [None] * 6
    with pytest.raises(InterpError, match="make no pair"):
        arm_pairs(bench, "neutral", "neutral")
    with pytest.raises(InterpError, match="use two different ones of congruent, neutral, conflict"):
        arm_pairs(bench, "neutral", "other")


def test_pairs_of_the_highlighted_picture() -> None:
    vlm, asked = tiny("llava"), samples(4)
    traced = interp.trace(vlm, asked)
    profile = interp.profile_layers(interp.trace(vlm, samples(4, seed=8)), fraction=0.5)
    pairs = highlight_pairs(asked[:2], traced, profile)
    for pair, sample in zip(pairs, asked, strict=False):
        plain, shown = (np.asarray(each.open_images()[0]).astype(int) for each in (sample, pair.clean))
        assert pair.corrupted is sample and pair.clean.question == sample.question
        assert (shown <= plain).all() and (shown < plain).any()
    found = patch(vlm, pairs, tokens="all", min_difference=1e-6)
    np.testing.assert_allclose(found["recovery"].values[:, -1], 1, atol=1e-2)
    with pytest.raises(InterpError, match="is not in the trace"):
        highlight_pairs(samples(1, seed=5), traced, profile)
    own = interp.profile_layers(traced, fraction=0.5)
    with pytest.raises(InterpError, match="fitted on 1 of the images it would judge"):
        highlight_pairs(asked[:2], traced, own)
    recorded = highlight_pairs(asked[:2], traced, own, allow_overlap=True)
    assert [pair.kind for pair in [*pairs[:1], *recorded[:1]]] == [
        "highlighted to plain",
        "highlighted to plain, profile fitted on this picture",
    ]


def test_the_shipped_organism_reads_the_digit_from_the_card() -> None:
    bench = interp.load_benchmark("digits", split="test", limit=50)
    pairs = digit_pairs([sample for sample in bench if sample.knobs["n_digits"] == 1 and sample.knobs["kind"] == "plain"][:4])
    found = patch(interp.load_vlm("demo/llava", device="cpu"), pairs, tokens=("evidence", "other", "last"))
    assert found.attrs["n_undefined"] < len(pairs)
    recovery: xr.DataArray = found["recovery"].mean("pair")
    assert float(recovery.sel(group="evidence")[0]) > 0.6 > 0.2 > abs(float(recovery.sel(group="last")[0]))
    assert float(recovery.sel(group="last")[-1]) == pytest.approx(1, abs=1e-3)
