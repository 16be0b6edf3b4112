"""Traces are exact in every family: rows, answers and references against transformers' own eager attention and generation.

One mixed benchmark serves all: one and two pictures per prompt, of different shapes and lengths, alone and in one left-padded batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from transformers.utils.logging import warning_once

import interp
from interp.capture.attention import attention_rows
from interp.capture.reach import mark_unreachable
from interp.decoding import Run
from interp.encoding import SEGMENTS
from interp.errors import CaptureError
from interp.testing import TINY, samples, tiny_vlm
from interp.vlm import VLM

MOST = 5  # answer tokens
POSITIONS = [0, 5, 7, 11, 20, -12, -1]
REFERENCES = [["one", "two three four"], ["five six", "seven"], ["zero"], ["the red circle", "left", "nine nine"]]
LENGTHS = (1, 4)  # samples per batch

families = pytest.mark.parametrize("name", TINY)
batches = pytest.mark.parametrize("batch_size", LENGTHS)


@cache
def model(name: str, dtype: torch.dtype = torch.float32) -> VLM:
    return tiny_vlm(name, dtype=dtype)


@cache
def bench() -> tuple[interp.Sample, ...]:
    two, one = samples(2, seed=2, n_images=2), samples(2, seed=1)
    mixed = [two[0], one[0], one[1], two[1]]
    return tuple(
        interp.Sample(sample.id, sample.images, sample.question, references, sample.regions)
        for sample, references in zip(mixed, REFERENCES, strict=True)
    )


@contextmanager
def eager(vlm: VLM) -> Iterator[Any]:
    before = vlm.hf_model.config.get_text_config()._attn_implementation
    vlm.hf_model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            yield vlm.hf_model
    finally:
        vlm.hf_model.set_attn_implementation({"text_config": before})


def rows_of(attentions: tuple[torch.Tensor, ...]) -> NDArray[np.floating]:
    return torch.stack(attentions)[:, 0].numpy()


@cache
def forward(name: str, dtype: torch.dtype, index: int) -> NDArray[np.floating]:
    """(layer, head, query, key) of one sample's prompt by eager attention, alone."""
    vlm = model(name, dtype)
    with eager(vlm) as hf_model:
        return rows_of(hf_model(**vlm.batch([vlm.encode(bench()[index])]), output_attentions=True, use_cache=False).attentions)


@cache
def traced(name: str, batch_size: int) -> xr.Dataset:
    return interp.trace(model(name), bench(), batch_size=batch_size, max_new_tokens=MOST, residual=True)


def agree(vlm: VLM, got: NDArray[np.floating], expected: NDArray[np.floating], positions: NDArray[np.int64]) -> None:
    """(layer, head, query, key) equal, and NaN exactly where a sliding layer does not reach back to."""
    window = getattr(vlm.hf_model.config.get_text_config(), "sliding_window", None) or 10**9
    key = np.arange(got.shape[-1])
    beyond = key <= positions[:, None] - window
    sliding = np.array([kind == "sliding" for kind in vlm.layer_kinds])
    unreachable = np.broadcast_to(sliding[:, None, None, None] & beyond, got.shape)
    np.testing.assert_array_equal(np.isnan(got), unreachable)
    assert (expected[unreachable] == 0).all()
    np.testing.assert_allclose(np.where(unreachable, 0, got), expected, atol=1e-5)


def test_the_benchmark_mixes() -> None:
    vlm = model("llava_onevision")
    encodings = [vlm.encode(sample) for sample in bench()]
    assert len({len(encoding) for encoding in encodings}) == len(bench()), "every prompt but one is padded"
    assert len({encoding.inputs["pixel_values"].shape[1] for encoding in encodings}) > 1, "numbers of tiles differ"
    assert {len(encoding.images) for encoding in encodings} == {1, 2}


@families
@batches
def test_last_rows_equal_eager(name: str, batch_size: int) -> None:
    vlm = model(name)
    got = traced(name, batch_size)["attention"]
    for index in range(len(bench())):
        expected = forward(name, torch.float32, index)[:, :, -1:]
        length = expected.shape[-1]
        agree(vlm, got[index, :, :, :length].values[:, :, None], expected, np.array([length - 1]))
        assert got[index, :, :, length:].isnull().all()


@families
@pytest.mark.parametrize("queries", ["question", POSITIONS], ids=["question", "positions"])
def test_further_rows_equal_eager(name: str, queries: Any) -> None:
    # in float64: a row is a function of the layer below, and eager rounds differently there in float32
    vlm = model(name, torch.float64)
    found = interp.trace(vlm, bench(), batch_size=4, answers=False, queries=queries)
    for index, sample in enumerate(bench()):
        expected = forward(name, torch.float64, index)
        length = expected.shape[-1]
        encoding = vlm.encode(sample)
        at = encoding.question_tokens if queries == "question" else np.array(POSITIONS) % length
        if queries != "question":
            assert (encoding.segment[at] == SEGMENTS.index("image")).any(), "the row of a picture's token is among them"
        assert found["query_position"][index].values[: len(at)].tolist() == at.tolist()
        agree(vlm, found["attention_rows"][index, :, :, : len(at), :length].values, expected[:, :, at], at)


@cache
def generated(name: str, dtype: torch.dtype, *indices: int) -> tuple[NDArray[np.int64], Any]:
    """transformers' own greedy answers (sample, step) of a batch, and the eager attention of every step."""
    vlm = model(name, dtype)
    inputs = vlm.batch([vlm.encode(bench()[i]) for i in indices])
    with eager(vlm) as hf_model:
        made = hf_model.generate(**inputs, do_sample=False, max_new_tokens=MOST + 1, output_attentions=True, return_dict_in_generate=True)
    return made.sequences[:, inputs["input_ids"].shape[1] :].numpy(), made.attentions


@families
@batches
def test_answers_equal_generate(name: str, batch_size: int) -> None:
    vlm = model(name)
    got = traced(name, batch_size)["answer_ids"].values
    alone = [generated(name, torch.float32, index)[0][0] for index in range(len(bench()))]
    together = generated(name, torch.float32, *range(len(bench())))[0] if batch_size > 1 else alone
    for said, *expected in zip(got, alone, together, strict=True):
        ids = said[said >= 0]
        assert 0 < len(ids) <= MOST
        assert len(ids) == MOST or ids[-1] in vlm.end_tokens
        for one in expected:
            assert ids.tolist() == one[: len(ids)].tolist()


@families
def test_rows_of_the_answer_equal_eager(name: str) -> None:
    vlm = model(name, torch.float64)
    found = interp.trace(vlm, bench(), batch_size=4, queries="answer", max_new_tokens=MOST)
    for index, sample in enumerate(bench()):
        length = len(vlm.encode(sample))
        said = found["answer_ids"][index].values
        spoken = int((said >= 0).sum()) - int(np.isin(said, vlm.end_tokens).any())
        assert found["query_position"][index].values[:spoken].tolist() == list(range(length, length + spoken))
        for step, attentions in enumerate(generated(name, torch.float64, index)[1][1 : spoken + 1]):
            here = length + step
            expected = np.zeros((vlm.n_layers, vlm.n_heads, 1, here + 1))
            for layer, row in enumerate(attentions):  # the cache of a sliding layer holds the latest keys only
                expected[layer, :, :, -row.shape[-1] :] = row[0].numpy()
            got = found["attention_rows"][index, :, :, step : step + 1, : here + 1].values
            agree(vlm, got, expected, np.array([here]))


@cache
def plain_logprobs(name: str, index: int) -> list[float]:
    """Of each reference and the end token, from one forward pass over prompt and answer."""
    vlm, sample, scores = model(name), bench()[index], []
    for reference in sample.references:
        tokenizer = vlm.processor.tokenizer
        answer = torch.tensor([[*tokenizer(reference, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
        inputs = vlm.batch([vlm.encode(sample)])
        for key in {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"} & set(inputs):
            more = answer if key == "input_ids" else torch.full_like(answer, key == "attention_mask")
            inputs[key] = torch.cat([inputs[key], more], dim=1)
        with torch.no_grad():
            logits = vlm.hf_model(**inputs, use_cache=False).logits[0, -answer.shape[1] - 1 : -1]
        scores.append(float(logits.log_softmax(-1).gather(1, answer.T).sum()))
    return scores


@families
@batches
def test_reference_logprob_is_that_of_a_plain_forward(name: str, batch_size: int) -> None:
    got = traced(name, batch_size)["reference_logprob"].values
    for index, score in enumerate(got):
        scores = plain_logprobs(name, index)
        assert score == pytest.approx(max(scores), abs=2e-5)
        assert len(scores) == 1 or max(scores) - min(scores) > 0.1


@cache
def states(name: str, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(layer, feature) what enters and what leaves each layer at the last token of a prompt, by plain hooks."""
    vlm, entered, left = model(name), [], []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        entered.append((args[0] if args else kwargs["hidden_states"])[0, -1])
        left.append(output[0, -1])

    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in vlm.layers]
    with torch.no_grad():
        vlm.hf_model(**vlm.batch([vlm.encode(bench()[index])]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(entered), torch.stack(left)


@families
@batches
def test_residual_is_the_layers_own_output(name: str, batch_size: int) -> None:
    """Also where vision features are added between the first layers: at the last token, what leaves one layer enters the next."""
    got = traced(name, batch_size)["residual"]
    for index in range(len(bench())):
        entered, left = states(name, index)
        np.testing.assert_allclose(got[index].values, left.numpy(), rtol=1e-4, atol=1e-4)
        assert torch.equal(left[:-1], entered[1:])


@families
def test_half_precision_passes_the_self_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = model(name, torch.bfloat16)
    found = interp.trace(vlm, bench(), batch_size=4, answers=False)
    np.testing.assert_allclose(found["attention"].sum("token"), 1, atol=1e-4)

    def shifted(*args: Any) -> torch.Tensor:
        return attention_rows(*args).roll(1, -1)

    monkeypatch.setattr("interp.capture.attention.attention_rows", shifted)
    with pytest.raises(CaptureError, match="do not give the model's own attention output"):
        interp.trace(vlm, bench(), batch_size=4, answers=False)


def entering(vlm: VLM, sample: interp.Sample) -> torch.Tensor:
    """(token, feature) as the prompt enters the first decoder layer."""
    seen: list[torch.Tensor] = []
    hook = vlm.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        vlm.hf_model(**Run.start(vlm.hf_model, vlm.batch([vlm.encode(sample)]), use_cache=False).prefill_inputs())
    hook.remove()
    return seen[0][0]


@families
def test_every_visual_token_knows_its_picture(name: str) -> None:
    vlm = model(name)
    sample = bench()[0]
    assert len(sample.open_images()) == 2
    encoding = vlm.encode(sample)
    visual = encoding.segment == SEGMENTS.index("image")
    seen = ~np.isnan(encoding.token_boxes[:, 0])
    assert (encoding.image_index[visual] >= 0).all() and (encoding.image_index[~visual] == -1).all()
    before = entering(vlm, sample)
    for changed, picture in enumerate(sample.open_images()):
        pictures = list(sample.open_images())
        pictures[changed] = Image.eval(picture, lambda value: 255 - value)
        moved = (entering(vlm, interp.Sample("s", pictures, sample.question, "one")) - before).abs().amax(1).numpy() > 1e-4
        np.testing.assert_array_equal(moved, seen & (encoding.image_index == changed))


@families
def test_evidence_covers_tokens_of_its_own_picture_only(name: str) -> None:
    vlm = model(name)
    pictures = bench()[0].open_images()
    for marked, picture in enumerate(pictures):
        whole = interp.Region((0, 0, *picture.size), "evidence", image_index=marked)
        found = interp.trace(vlm, [interp.Sample("s", pictures, "what is it", "one", [whole])], answers=False, self_check=False)
        boxed = ~found["token_box"][0, :, 0].isnull()
        expected = xr.where(found["image_index"][0] == marked, 1.0, 0.0).where(boxed)
        np.testing.assert_allclose(found["coverage"][0], expected)


def narrowed(name: str, window: int) -> VLM:
    vlm = tiny_vlm(name)
    vlm.hf_model.config.get_text_config().sliding_window = window
    for layer in vlm.layers:
        if getattr(layer.self_attn, "sliding_window", None):
            layer.self_attn.sliding_window = window
    return vlm


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_picture_wider_than_the_window_is_seen_ahead(batch_size: int) -> None:
    """Tokens of a picture see each other: ahead across the window, back within it."""
    vlm = narrowed("gemma3", 2)
    sample, *others = samples(3)
    at = np.flatnonzero(vlm.encode(sample).segment == SEGMENTS.index("image"))
    found = interp.trace(vlm, [sample, *others], batch_size=batch_size, answers=False, queries=at.tolist())
    with eager(vlm) as hf_model:
        expected = rows_of(hf_model(**vlm.batch([vlm.encode(sample)]), output_attentions=True).attentions)
    first, length = at[0], expected.shape[-1]
    got = found["attention_rows"][0, :, :, :, :length].values
    assert vlm.layer_kinds[0] == "sliding"
    assert got[0, :, 0, first + 2 : at[-1] + 1].max() > 0.01
    agree(vlm, got, expected[:, :, at], at)


def test_a_window_without_a_list_of_layers_is_every_layers() -> None:
    vlm = narrowed("llava_next", 16)
    assert set(vlm.layer_kinds) == {"sliding"}
    found = interp.trace(vlm, samples(3), batch_size=3, answers=True, queries="answer", max_new_tokens=3)
    for index, sample in enumerate(samples(3)):
        with eager(vlm) as hf_model:
            expected = rows_of(hf_model(**vlm.batch([vlm.encode(sample)]), output_attentions=True).attentions)
        length = expected.shape[-1]
        agree(vlm, found["attention"][index, :, :, :length].values[:, :, None], expected[:, :, -1:], np.array([length - 1]))
        answer = found["attention_rows"][index, :, :, 0, : length + 1]
        assert answer[..., : length + 1 - 16].isnull().all() and not answer[..., length + 1 - 16 :].isnull().any()


def test_a_key_that_some_head_attends_to_is_never_marked() -> None:
    """Should the mask reach further than the configuration says: what is marked follows the attention."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(sliding_window=2))
    vlm: Any = SimpleNamespace(layer_kinds=("sliding", "full"), hf_model=SimpleNamespace(config=config))
    rows = np.zeros((2, 2, 1, 6))
    rows[..., 4:] = 0.4
    rows[:, 1, :, 1] = 0.2
    mark_unreachable(vlm, rows, [5])
    marked = np.zeros(rows.shape, dtype=bool)
    marked[0, :, :, [0, 2, 3]] = True
    np.testing.assert_array_equal(np.isnan(rows), marked)


def test_a_trace_raises_no_false_alarm() -> None:
    """The request for rows also reaches a vision tower whose attention cannot serve it; nobody asked it to."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("transformers.integrations.sdpa_attention")
    logger.addHandler(handler)
    try:
        warning_once.cache_clear()
        interp.trace(model("qwen2_5_vl"), bench(), batch_size=4, answers=False)
        assert not told
    finally:
        logger.removeHandler(handler)
    assert logger.filters == []
