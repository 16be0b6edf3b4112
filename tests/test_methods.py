"""Rival methods, each against what it says it is: small cases by hand, and whole answers put together from other public parts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AddedToken

import interp
from interp.analysis import Profile
from interp.benchmarks.sample import Sample
from interp.errors import InterpError
from interp.geometry import paint
from interp.interventions import evidence_map, highlight
from interp.methods import Batch, Method, Reply, evaluate, names
from interp.methods.agla import kept_share, masked
from interp.methods.cgr import cgr
from interp.methods.contrast import combined
from interp.methods.own_tokens import middle_layer, reaching_layers
from interp.methods.token_picture import stretched, token_picture
from interp.methods.trained import trained_forms
from interp.methods.var import jet, painted_over
from interp.methods.vicrop import RATIOS, best_window, relative_attention
from interp.prompts import PROMPTS
from interp.rendering import refuse_control, without_control
from interp.testing import samples, tiny_vlm, tokenizer
from interp.vlm import VLM

RIVALS: tuple[Any, ...] = (cgr(6), "var", "sink-redistribution", "agla", "vicrop", "vea-star")
STEPS = 3


@cache
def model(family: str) -> VLM:
    return tiny_vlm(family)


@cache
def profiled(family: str) -> Profile:
    return interp.profile_layers(interp.trace(model(family), samples(4, seed=9), answers=False), 0.25)


@cache
def questions() -> list[Sample]:
    return [*samples(3), *samples(1, seed=3, n_images=2)]


@cache
def traced(family: str) -> xr.Dataset:
    return interp.trace(model(family), questions(), batch_size=2, max_new_tokens=STEPS, queries="answer")


def said(answers: xr.Dataset, method: str) -> list[str]:
    return answers["prediction"].sel({"method": method}).values.astype(object).tolist()


def shown(sample: Sample, pictures: Sequence[Image.Image]) -> Sample:
    return Sample(sample.id, list(pictures), sample.question, sample.references, sample.regions)


def lit(sample: Sample, maps: Sequence[xr.DataArray]) -> list[Image.Image]:
    return [highlight(picture, one) for picture, one in zip(sample.open_images(), maps, strict=True)]


def visual(one: xr.Dataset) -> np.ndarray:
    return ~np.isnan(one["token_box"].values[:, 0])


# ------------------------------------------------------------------------------------------------ VEA with a step left out


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_ablations_leave_out_what_they_say(family: str) -> None:
    """With a spike factor of one every local peak is replaced, so that each step left out shows."""
    vlm, profile, bench = model(family), profiled(family), questions()
    ablations = ["vea", "vea-no-denoise", "vea-no-smoothing", "vea-all-layers", "vea-no-prompt", "vea-star"]
    answers = evaluate(vlm, bench, ablations, profile, lam=1.0, batch_size=2, max_new_tokens=STEPS)
    asked: dict[str, list[Sample]] = {name: [] for name in ablations}
    for k, sample in enumerate(bench):
        one = traced(family).isel(sample=k)
        rows = one["attention"].values.reshape(-1, one.sizes["token"])
        means = [np.mean([value for value in column if not np.isnan(value)] or [np.nan]) for column in rows.T]
        everywhere = xr.DataArray(means, dims="token")
        for name, source, denoise, smooth in (
            ("vea", profile, True, True),
            ("vea-no-denoise", profile, False, True),
            ("vea-no-smoothing", profile, True, False),
            ("vea-all-layers", everywhere, True, True),
        ):
            made = [evidence_map(one, source, image_index=i, denoise=denoise, smooth=smooth, lam=1.0) for i in range(len(sample.images))]
            pictures = lit(sample, made)
            asked[name].append(shown(sample, pictures))
            if name == "vea":
                asked["vea-no-prompt"].append(shown(sample, pictures))
                asked["vea-star"].append(shown(sample, [*sample.open_images(), *pictures]))
    for name, several in asked.items():
        told = interp.trace(vlm, several, prompt="base" if name == "vea-no-prompt" else "vea", batch_size=2, max_new_tokens=STEPS)
        assert said(answers, name) == told["prediction"].values.astype(object).tolist(), name
        np.testing.assert_allclose(answers["reference_logprob"].sel({"method": name}), told["reference_logprob"], atol=2e-3, err_msg=name)
    scores = answers["reference_logprob"].values
    assert len({tuple(row.round(4)) for row in scores}) == len(ablations), "no two are the same"


def test_all_layers_need_no_profile() -> None:
    answers = evaluate(model("llava"), questions()[:2], ["vea-all-layers"], max_new_tokens=1)
    assert (answers["mean_gain"] < 1).all()


# ------------------------------------------------------------------------------------------------------------------- CGR


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_cgr_tells_what_was_extracted(family: str) -> None:
    vlm, bench = model(family), questions()
    found = evaluate(vlm, bench, [cgr(6)], batch_size=2, max_new_tokens=STEPS)
    told = vlm.generate(bench, "extract", max_new_tokens=6)
    wordings = [PROMPTS["informed"].replace("{information}", text) for text in told]
    assert said(found, "cgr") == [vlm.generate(s, w, max_new_tokens=STEPS) for s, w in zip(bench, wordings, strict=True)]
    assert (found["information_tokens"] >= 1).all() and (found["information_tokens"] <= 6).all()
    with pytest.raises(InterpError, match="information_tokens=0 leaves no room"):
        cgr(0)


def test_special_tokens_that_the_model_says_are_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, bench = tiny_vlm(), questions()[:1]
    monkeypatch.setattr(vlm, "decode", lambda ids: ["<image> one </s> {question} two"] * len(ids))
    prompts: list[str] = []
    encode = vlm.encode
    monkeypatch.setattr(vlm, "encode", lambda sample, prompt="base": prompts.append(prompt) or encode(sample, prompt))
    evaluate(vlm, bench, [cgr(2)], max_new_tokens=1)
    assert PROMPTS["informed"].replace("{information}", "one two") in prompts


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(["<image>", "</s>", "<s", ">", "<", "image", "one", " ", "<pad>", "<IMAGE>", "age>"]), max_size=8))
def test_what_is_left_of_a_text_can_be_told(parts: list[str]) -> None:
    processor = model("llava").processor
    text = "".join(parts)
    left = without_control(processor, text)
    refuse_control(processor, left, "the text")
    try:
        refuse_control(processor, text, "the text")
    except InterpError:
        assert len(left) <= len(text) and left != text
    else:
        assert left == text


def test_both_kinds_of_special_spellings_are_taken_out() -> None:
    """A placeholder that only the processor knows, and another spelling that the tokenizer's normaliser turns into a token."""
    words = tokenizer()
    words.add_tokens([AddedToken("<end>", special=True, normalized=True)], special_tokens=True)
    processor = SimpleNamespace(tokenizer=words, all_special_multimodal_tokens=["[picture]"])
    for text in ("one [picture] two", "one <END> two"):
        with pytest.raises(InterpError, match="special token"):
            refuse_control(processor, text, "the text")
        left = without_control(processor, text)
        refuse_control(processor, left, "the text")
        assert left.split() == ["one", "two"]


# ------------------------------------------------------------------------------------------------------------------- VAR


def test_the_colour_map_by_hand() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    attention = rng.random((7, 9))
    attention[0, :3] = np.nan
    got = np.asarray(painted_over(Image.fromarray(pixels), attention)).astype(int)
    weights = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16]
    inverted = np.pad(1 - np.nan_to_num(attention), 2, mode="reflect")
    for y in range(7):
        for x in range(9):
            if np.isnan(attention[y, x]):
                assert (got[y, x] == pixels[y, x]).all()
                continue
            blurred = sum(weights[i] * weights[j] * inverted[y + i, x + j] for i in range(5) for j in range(5))
            value = min(2 * blurred, 1)
            colour = [255 * min(max(1.5 - abs(4 * value - centre), 0), 1) for centre in (3, 2, 1)]
            assert got[y, x] == pytest.approx([0.8 * p + 0.2 * c for p, c in zip(pixels[y, x], colour, strict=True)], abs=0.5001)
    np.testing.assert_allclose(jet(np.array([0, 0.5, 1.0])), [[0, 0, 0.5], [0.5, 1, 0.5], [0.5, 0, 0]])


def tokens_of(rows: int, cols: int, size: tuple[int, int], left: float = 0.0) -> xr.Dataset:
    row, col = (place.ravel() for place in np.indices((rows, cols)))
    across, down = (size[0] - left) / cols, size[1] / rows
    boxes = np.stack([left + col * across, row * down, left + (col + 1) * across, (row + 1) * down], axis=1)
    n = rows * cols
    return xr.Dataset(
        {"image_size": (("image", "axis"), [list(size)])},
        coords={
            "token_box": (("token", "corner"), boxes),
            "view": ("token", np.zeros(n, int)),
            "row": ("token", row),
            "col": ("token", col),
            "image_index": ("token", np.zeros(n, int)),
        },
    )


def test_a_token_picture_goes_through_the_tokens_values() -> None:
    """An odd number of pixels a token, so that each token's centre is a pixel's; outside of the view there is no value."""
    values = np.random.default_rng(1).random(12)
    picture = token_picture(values, tokens_of(3, 4, (40, 27), left=4))
    assert picture.shape == (27, 40) and np.isnan(picture[:, :4]).all() and not np.isnan(picture[:, 4:]).any()
    np.testing.assert_allclose(picture[4::9, 8::9].ravel(), values, atol=1e-9)
    np.testing.assert_allclose(token_picture(np.full(12, 0.3), tokens_of(3, 4, (40, 27))), 0.3)
    ramp = token_picture(np.tile(np.arange(4.0), 3), tokens_of(3, 4, (40, 27)))
    assert (np.diff(ramp[0, 5:35]) > 0).all() and (np.abs(ramp[0, :5]) < 1e-9).all()
    single = token_picture([2.0], tokens_of(1, 1, (5, 3)))
    np.testing.assert_allclose(single, 2)
    np.testing.assert_allclose(stretched(np.array([[1.0, np.nan], [3.0, 2.0]])), [[0, np.nan], [1, 0.5]])


def test_views_that_overlap_average() -> None:
    first, second = tokens_of(1, 1, (6, 4)), tokens_of(1, 1, (6, 4), left=3)
    both = xr.concat([first.drop_vars("image_size"), second.drop_vars("image_size")], "token", data_vars="all")
    both["image_size"] = (("image", "axis"), [[6, 4]])
    both = both.assign_coords(view=("token", [0, 1]))
    picture = token_picture([1.0, 3.0], both)
    np.testing.assert_allclose(picture, np.repeat([[1.0] * 3 + [2.0] * 3], 4, axis=0))


@pytest.mark.parametrize("family", ["llava", "gemma3", "llava_next"])
def test_var_paints_the_answers_attention(family: str) -> None:
    vlm, bench, trace = model(family), questions(), traced(family)
    found = evaluate(vlm, bench, ["var"], batch_size=2, max_new_tokens=STEPS)
    asked = []
    for k, sample in enumerate(bench):
        one = trace.isel(sample=k)
        seen = visual(one)
        rows = one["attention_rows"].values[reaching_layers(vlm)[-1]]  # (head, query, key)
        rows = rows[:, ~np.isnan(rows).all((0, 2))][:, :, : len(seen)]
        if not rows.size:
            asked.append(sample)
            continue
        values = rows.mean((0, 1)).astype(float)
        pictures = []
        for i, picture in enumerate(sample.open_images()):
            mine = seen & (one["image_index"].values == i)
            grid = np.full(len(seen), np.nan)
            grid[mine] = (values[mine] - values[mine].min()) / np.ptp(values[mine])
            pictures.append(painted_over(picture, np.clip(token_picture(grid, one, i), 0, 1)))
        asked.append(shown(sample, pictures))
    told = interp.trace(vlm, asked, batch_size=2, max_new_tokens=STEPS)
    assert said(found, "var") == told["prediction"].values.astype(object).tolist()
    np.testing.assert_allclose(found["reference_logprob"].values[0], told["reference_logprob"], atol=2e-3)
    assert (np.abs(told["reference_logprob"] - trace["reference_logprob"]) > 1e-3).any(), "the paint is seen"
    assert np.isnan(found["mean_gain"]).all()


def test_var_after_an_empty_answer_shows_the_picture_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, bench = tiny_vlm(), questions()[:1]
    base = evaluate(vlm, bench, ["base"], max_new_tokens=1)
    with torch.no_grad():
        vlm.hf_model.lm_head.weight[3] = 0
        first = vlm.encode(bench[0])
        hidden = vlm.hf_model(**vlm.batch([first]), output_hidden_states=True).hidden_states[-1][0, -1]
        vlm.hf_model.lm_head.weight[vlm.end_tokens[0]] = 100 * hidden / hidden.norm()
    found = evaluate(vlm, bench, ["base", "var"], max_new_tokens=2)
    assert said(found, "base") == said(found, "var") == [""] and said(base, "base") != [""]
    assert found["reference_logprob"].values[0] == pytest.approx(found["reference_logprob"].values[1])


# ------------------------------------------------------------------------------------------------------------------ AGLA


def test_contrast_by_hand() -> None:
    logits, other = torch.tensor([[2.0, 1.9, 1.0, 1.35]]), torch.tensor([[0.0, 1.0, 9.0, 0.5]])
    got = combined(logits, other, 2.0, 0.5)[0].tolist()
    assert got[:2] == pytest.approx([2.0, 3.9]) and got[2] == -math.inf and got[3] == pytest.approx(2.35)


def test_the_mask_by_hand() -> None:
    picture = Image.fromarray(np.full((10, 10, 3), 200, dtype=np.uint8))
    relevance = np.tile(np.arange(10.0), (10, 1))
    kept = np.asarray(masked(picture, relevance, 0.3))[:, :, 0]
    assert (kept[:, 7:] == 200).all() and (kept[:, :7] == 0).all()
    unseen = relevance.copy()
    unseen[:, 0] = np.nan
    assert (np.asarray(masked(picture, unseen, 0.3))[:, 0] == 200).all()
    assert np.asarray(masked(picture, np.ones((10, 10)), 0.5)).min() == 200, "nothing is less relevant than the rest"
    assert (kept_share(0.0), kept_share(1.0), kept_share(0.4)) == (1 - 1e-5, 0.5, 0.8)


def test_agla_decodes_from_both_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step by two whole forward passes without a cache, about the pictures that the method showed."""
    vlm, bench = tiny_vlm(), questions()
    asked: list[Sample] = []
    encode = vlm.encode
    monkeypatch.setattr(vlm, "encode", lambda sample, prompt="base": asked.append(sample) or encode(sample, prompt))
    found = evaluate(vlm, bench, ["agla"], batch_size=4, max_new_tokens=STEPS)
    monkeypatch.undo()
    darkened = asked[-len(bench) :]
    for k, (sample, dark) in enumerate(zip(bench, darkened, strict=True)):
        pairs = list(zip(sample.open_images(), dark.open_images(), strict=True))
        black = np.concatenate([(np.asarray(b).max(-1) == 0).ravel() for _, b in pairs]).mean()
        assert black == pytest.approx(1 - float(found["kept_pixels"][k]), abs=0.02)
        assert all(((np.asarray(b) == np.asarray(a)) | (np.asarray(b) == 0)).all() for a, b in pairs)
        ids: list[int] = []
        while len(ids) < STEPS and not (ids and ids[-1] in vlm.end_tokens):
            both = []
            for one in (sample, dark):
                inputs = vlm.batch([vlm.encode(one)])
                more = torch.tensor([ids], dtype=torch.long)
                inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                with torch.no_grad():
                    both.append(vlm.hf_model(**inputs).logits[0, -1].double().numpy())
            plausible = np.exp(both[0]) >= 0.5 * np.exp(both[0].max())
            ids.append(int(np.where(plausible, both[0] + 2 * both[1], -np.inf).argmax()))
        assert str(found["prediction"][0, k].item()) == vlm.decode(torch.tensor([ids]))[0]
    assert np.isnan(found["reference_logprob"]).all() and np.isnan(found["entropy"]).all()
    assert "not of a matching model" in json.loads(found.attrs["method_summaries"])["agla"]


# ---------------------------------------------------------------------------------------------------------------- ViCrop


def test_windows_against_a_plain_search() -> None:
    rng = np.random.default_rng(5)
    for shape, stride, side in (((60, 80), (7, 9), 20), ((40, 40), (10, 10), 20.0), ((12, 50), (5, 5), 30)):
        attention = rng.random(shape) ** 6
        best: tuple[float, tuple[int, ...]] | None = None
        for ratio in RATIOS:
            w, h = min(round(side * ratio), shape[1]), min(round(side * ratio), shape[0])
            if best is not None and (w, h) == (shape[1], shape[0]):
                continue
            xs = sorted({*range(0, shape[1] - w + 1, stride[0]), shape[1] - w})
            ys = sorted({*range(0, shape[0] - h + 1, stride[1]), shape[0] - h})
            sums = {(j, i): attention[y : y + h, x : x + w].sum() for j, y in enumerate(ys) for i, x in enumerate(xs)}
            j, i = max(sums, key=lambda at: sums[at])
            near = [sums[at] for at in ((j + 1, i), (j - 1, i), (j, i + 1), (j, i - 1)) if at in sums]
            score = (sums[j, i] - sum(near) / len(near)) / (w * h) if near else 0.0
            if best is None or score > best[0]:
                best = (score, (xs[i], ys[j], xs[i] + w, ys[j] + h))
        assert best is not None and best_window(attention, stride, side) == best[1]
    assert best_window(np.ones((10, 10)), (2, 2), 30) == (0, 0, 10, 10)
    assert relative_attention(np.array([0.0, 0.2, 0.0]), np.array([0.1, 0.4, 0.0])).tolist() == [0, 0.5, 0]


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_vicrop_shows_the_window_as_a_further_picture(family: str) -> None:
    vlm, bench = model(family), questions()
    found = evaluate(vlm, bench, ["vicrop"], batch_size=2, max_new_tokens=STEPS)
    general = interp.trace(vlm, bench, prompt="describe", answers=False, batch_size=2)
    layer, asked = middle_layer(vlm), []
    for k, sample in enumerate(bench):
        one, other = traced(family).isel(sample=k), general.isel(sample=k)
        boxes, image = one["token_box"].values[visual(one)], one["image_index"].values[visual(one)]
        ratio = one["attention"].values[layer][:, visual(one)].mean(0) / other["attention"].values[layer][:, visual(other)].mean(0)
        crops = []
        for i, picture in enumerate(sample.open_images()):
            mine = image == i
            stride = [max(1, round(float(np.median(boxes[mine][:, a + 2] - boxes[mine][:, a])))) for a in (0, 1)]
            painted = np.nan_to_num(paint(ratio[mine], boxes[mine], picture.size))
            crops.append(picture.crop(best_window(painted, (stride[0], stride[1]), min(picture.size) / 2)))
        asked.append(shown(sample, [*sample.open_images(), *crops]))
    told = interp.trace(vlm, asked, batch_size=2, max_new_tokens=STEPS)
    assert said(found, "vicrop") == told["prediction"].values.astype(object).tolist()
    np.testing.assert_allclose(found["reference_logprob"].values[0], told["reference_logprob"], atol=2e-3)


# ------------------------------------------------------------------------------------------------------------ what it costs


def counted(vlm: VLM, *asked: Any, **options: Any) -> tuple[xr.Dataset, list[tuple[int, int]]]:
    """The answers, and of every forward pass its rows and tokens; a prefill is a pass without a filled cache."""
    passes: list[tuple[int, int]] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            passes.append(tuple(kwargs["input_ids"].shape))

    hook = vlm.hf_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        return evaluate(vlm, *asked, **options), passes
    finally:
        hook.remove()


def test_prefills_are_shared() -> None:
    """Base and VEA take two prefills together, and answer as by themselves; so do base and the methods that start from its answer."""
    vlm, bench, profile = tiny_vlm(), samples(4), profiled("llava")
    how: dict[str, Any] = {"profile": profile, "batch_size": 2, "max_new_tokens": STEPS}
    both, passes = counted(vlm, bench, ["base", "vea"], **how)
    assert len(passes) == 2 * 2
    base, alone = counted(vlm, bench, ["base"], **{**how, "profile": None})
    vea, _ = counted(vlm, bench, ["vea"], **how)
    assert len(alone) == 2
    assert sum(rows for rows, _ in passes) <= 2.1 * sum(rows for rows, _ in alone)
    for single in (base, vea):
        name = str(single["method"].values[0])
        for score in ("prediction", "reference_logprob", "entropy", "mean_gain", "passes"):
            np.testing.assert_array_equal(both[score].sel({"method": name}).values, single[score].values[0], err_msg=score)
    painted, passes = counted(vlm, bench, ["base", "var"], **how)
    assert len(passes) == 2 * 2
    apart, _ = counted(vlm, bench, ["var"], **how)
    for score in ("prediction", "reference_logprob", "passes"):
        np.testing.assert_array_equal(painted[score].values[1], apart[score].values[0])
        np.testing.assert_array_equal(painted[score].values[0], base[score].values[0])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_agla_goes_on_from_the_prefill_of_base(family: str) -> None:
    """Three prefills together (the plain one, GradCAM's, the masked picture's), four apart, in any order, and every number the same."""
    vlm, bench = model(family), questions()[1:]
    how: dict[str, Any] = {"batch_size": len(bench), "max_new_tokens": STEPS}
    apart = {name: counted(vlm, bench, [name], **how) for name in ("base", "agla", "var", "vicrop")}
    assert {name: len(passes) for name, (_, passes) in apart.items()} == {"base": 1, "agla": 3, "var": 2, "vicrop": 3}
    assert len(set(said(apart["agla"][0], "agla"))) == len(bench), "answers that differ can be told apart"
    for asked, prefills in ((["agla", "base"], 3), (["base", "vicrop", "agla", "var"], 1 + 2 + 2 + 1)):
        both, passes = counted(vlm, bench, asked, **how)
        assert len(passes) == prefills
        for name in asked:
            one, single = both.sel({"method": name}), apart[name][0].isel(method=0)
            # each is charged with what it shares, as if it were alone
            for score in ("prediction", "reference_logprob", "entropy", "passes", "kept_pixels"):
                if score in single:
                    np.testing.assert_array_equal(one[score].values, single[score].values, err_msg=f"{name} {score}")


def test_a_plain_prefill_is_shared_when_another_model_attributes() -> None:
    vlm, bench = model("llava"), questions()[:2]
    seen = interp.trace(vlm, bench, answers=False)
    how: dict[str, Any] = {"attribution": seen, "batch_size": 2, "max_new_tokens": STEPS}
    both, passes = counted(vlm, bench, ["base", "agla", "var"], profiled("llava"), **how)
    assert len(passes) == 4
    for name in ("base", "agla", "var"):
        alone = evaluate(vlm, bench, [name], profiled("llava"), **how)
        for score in ("prediction", "reference_logprob", "passes"):
            np.testing.assert_array_equal(both[score].sel({"method": name}).values, alone[score].values[0], err_msg=f"{name} {score}")


def test_a_branch_is_nobody_elses() -> None:
    """What one branch of the base prompt's prefill is fed, neither the next one nor `base` sees."""
    replies: list[Sequence[Reply]] = []

    def wandering(batch: Batch) -> Sequence[Reply]:
        for token in (7, 9):
            first = batch.branch()
            with torch.no_grad():
                first.run.forward(first.run.advance(first.outputs, torch.full((len(batch.samples), 2), token)))
        replies.append(batch.base)
        assert batch.branch().outputs.past_key_values.get_seq_length() == max(len(batch.vlm.encode(sample)) for sample in batch.samples)
        return replies[-1]

    bench = questions()[1:]
    found = evaluate(model("gemma3"), bench, [Method("wandering", "of a test", wandering), "base"], batch_size=3, max_new_tokens=STEPS)
    alone = evaluate(model("gemma3"), bench, ["base"], batch_size=3, max_new_tokens=STEPS)
    for score in ("prediction", "reference_logprob", "entropy"):
        for k in range(2):
            np.testing.assert_array_equal(found[score].values[k], alone[score].values[0])


def test_passes_are_tokens_in_lengths_of_the_base_prompt() -> None:
    """One sample and answers of one token, so that only prompts count."""
    vlm, bench, profile = model("llava"), questions()[:1], profiled("llava")
    found = evaluate(vlm, bench, ["base", "inst", "vea", "var", "agla", "vicrop", cgr(1)], profile, max_new_tokens=1)
    n = {prompt: len(vlm.encode(bench[0], prompt)) for prompt in ("base", "vea", "describe", "extract")}
    picture = bench[0].open_images()[0]
    beside = len(vlm.encode(shown(bench[0], [picture, picture])))
    passes = dict(zip(found["method"].values.tolist(), found["passes"].values[:, 0] * n["base"], strict=True))
    assert passes["base"] == pytest.approx(n["base"]) and passes["inst"] == pytest.approx(n["vea"])
    assert passes["vea"] == pytest.approx(n["base"] + n["vea"])
    assert passes["var"] == pytest.approx(2 * n["base"] + 1), "the row of what was said takes one token more"
    assert passes["agla"] == pytest.approx(5 * n["base"])
    assert passes["vicrop"] == pytest.approx(n["base"] + n["describe"] + beside)
    assert passes["cgr"] > n["extract"] + n["base"] / 2
    longer = evaluate(vlm, bench, ["base"], max_new_tokens=4)
    fed = len(vlm.processor.tokenizer(said(longer, "base")[0], add_special_tokens=False)["input_ids"]) - 1
    assert longer["passes"].values[0, 0] * n["base"] >= n["base"] + fed
    assert longer["passes"].attrs["units"] == "1"


# ------------------------------------------------------------------------------------------------------ not applicable


def carded(folder: Path, forms: dict[str, float], shapes: dict[str, float]) -> VLM:
    (folder / "card.json").write_text(json.dumps({"recipe": {"mixture": {"forms": forms, "shapes": shapes}}}))
    vlm = tiny_vlm()
    vlm.hf_model.config._name_or_path = str(folder)
    return vlm


def test_a_form_that_was_not_trained_has_no_score(tmp_path: Path) -> None:
    vlm = carded(tmp_path, {"base": 0.5, "vea": 0.5, "extract": 0.0, "informed": 0.1}, {"bare question": 0.2, "captions": 0.1})
    assert trained_forms(vlm) == {"base", "vea", "informed", "question", "describe"}
    asked = ["base", cgr(2), "vea-star", "var"]
    profile = interp.profile_layers(interp.trace(vlm, samples(4, seed=9), answers=False), 0.5)
    found, stored = (evaluate(vlm, samples(2), asked, profile, max_new_tokens=2, store=store) for store in (None, tmp_path / "a.zarr"))
    for answers in (found, stored.load()):
        reasons = json.loads(answers.attrs["not_applicable"])
        assert set(reasons) == {"cgr", "vea-star"}
        assert "extract" in reasons["cgr"] and "informed" not in reasons["cgr"] and "two images" in reasons["vea-star"]
        for name in reasons:
            one = answers.sel({"method": name})
            assert one["prediction"].values.tolist() == ["", ""]
            numbers = [v for v in one.data_vars.values() if v.dims == ("sample",) and v.dtype.kind == "f" and v.name != "profiled_auroc"]
            assert len(numbers) >= 10
            assert all(np.isnan(v.values).all() for v in numbers)
        rest = answers.sel({"method": ["base", "var"]})
        assert np.isfinite(rest["exact_match"]).all() and np.isfinite(rest["passes"]).all()
    compared = interp.findings.compare_methods(found)
    assert int(compared.scores["n"].sel({"method": "cgr"})) == 0
    assert np.isnan(compared.against[0]["p_holm"].sel({"method": "cgr"})), "no test, so none to correct for"
    cells = list(interp.tables.method_tables(compared)[0].columns[2].cells)
    assert cells.count("not applicable") == 2 and cells[1] == cells[2] == "not applicable"


def test_more_pictures_than_two_were_not_trained(tmp_path: Path) -> None:
    vlm = carded(tmp_path, {"base": 0.5, "vea": 0.5, "describe": 1}, {"two images": 0.1})
    found = evaluate(vlm, questions(), ["vicrop", "base"], max_new_tokens=1)
    assert "4 pictures at once" in json.loads(found.attrs["not_applicable"])["vicrop"]
    assert "not_applicable" not in evaluate(vlm, questions()[:2], ["vicrop", "base"], max_new_tokens=1).attrs


def test_without_a_card_every_form_counts_as_trained(tmp_path: Path) -> None:
    assert trained_forms(model("llava")) is None
    vlm = tiny_vlm()
    vlm.hf_model.config._name_or_path = str(tmp_path)
    (tmp_path / "card.json").write_text('{"title": "a card of something else"}')
    assert trained_forms(vlm) is None
    own = Method("mine", "of a test", lambda batch: [Reply(np.array([5])) for _ in batch.samples])
    assert own.forms == ()


# ------------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
def test_batches_do_not_matter(family: str) -> None:
    vlm, profile = model(family), profiled(family)
    together, alone = (evaluate(vlm, questions()[1:], RIVALS, profile, batch_size=n, max_new_tokens=2) for n in (3, 1))
    assert (together["prediction"].values == alone["prediction"].values).all()
    for name in ("reference_logprob", "passes", "kept_pixels", "redistributed_heads", "information_tokens"):
        np.testing.assert_allclose(together[name], alone[name], atol=2e-3, err_msg=name)


def test_half_precision() -> None:
    half = tiny_vlm(dtype=torch.bfloat16)
    profile = interp.profile_layers(interp.trace(half, samples(4, seed=9), answers=False), 0.5)
    found = evaluate(half, samples(2), RIVALS, profile, max_new_tokens=2)
    assert np.isfinite(found["passes"]).all() and np.isfinite(found["kept_pixels"]).all()


def test_a_shipped_model_end_to_end() -> None:
    """Every method by name, on the small trained model: answers, costs, and nothing left out by its card."""
    vlm, bench = interp.load_vlm("demo/llava"), interp.load_benchmark("digits", split="test", limit=2)
    profile = interp.profile_layers(interp.trace(vlm, interp.load_benchmark("digits", split="profile", limit=4), answers=False))
    found = evaluate(vlm, bench, names(), profile, batch_size=2)
    assert "not_applicable" not in found.attrs
    assert np.isfinite(found["exact_match"]).all() and (found["seconds"] > 0).all()
    assert (found["passes"] >= 1).all() and (found["passes"] < 6).all()
    assert all(text for text in found["prediction"].values.ravel())
    assert (found["information_tokens"] < 60).all(), "the information ends by itself, long before the 512 tokens it may have"
    assert said(found, "sink-redistribution") == said(found, "base") or (found["redistributed_heads"] > 0).any()
    pairs = replace(bench[0], images=(*bench[0].open_images(), *bench[0].open_images()))
    assert set(json.loads(evaluate(vlm, [pairs], ["vea-star"], profile, max_new_tokens=1).attrs["not_applicable"])) == {"vea-star"}
