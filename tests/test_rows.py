"""Captured rows are the model's own: against eager attention, with padding, grouped heads, and when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import interp
from interp.capture.attention import attention_rows, register
from interp.errors import CaptureError
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


@pytest.fixture
def maskless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No mask is made, as happens when only the attention function is known to transformers."""
    with monkeypatch.context() as patch:
        patch.setattr("interp.capture.attention.sdpa_mask", lambda *_, **__: None)
        yield
    register()


def eager_rows(vlm: VLM, sample: interp.Sample) -> torch.Tensor:
    """(layer, head, query, key) by transformers' own eager attention, one prompt, no padding."""
    before = vlm.hf_model.config.get_text_config()._attn_implementation
    vlm.hf_model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            outputs = vlm.hf_model(**vlm.batch([vlm.encode(sample)]), output_attentions=True, use_cache=False)
    finally:
        vlm.hf_model.set_attn_implementation({"text_config": before})
    return torch.stack(outputs.attentions)[:, 0]


def worst(vlm: VLM, batch_size: int, layers: slice = slice(None), self_check: bool = True) -> float:
    bench = samples(3)
    traced = interp.trace(vlm, bench, batch_size=batch_size, answers=False, self_check=self_check)
    gaps = []
    for i, sample in enumerate(bench):
        expected = eager_rows(vlm, sample)[:, :, -1].float().numpy()
        got = traced["attention"][i, :, :, : expected.shape[-1]].values
        gaps.append(np.abs(got - expected)[layers].max())
    return float(max(gaps))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_rows_equal_eager(batch_size: int, key_value_heads: int) -> None:
    assert worst(tiny_vlm(num_key_value_heads=key_value_heads), batch_size) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_equal_eager_in_float64(batch_size: int) -> None:
    vlm = tiny_vlm(dtype=torch.float64)
    # eager rounds its weights to float32 whatever the model's type; above the first layer a peaky random model amplifies that
    assert worst(vlm, batch_size, slice(0, 1)) < 1e-6
    assert worst(vlm, batch_size) < 1e-5


def test_half_precision_passes_the_self_check() -> None:
    traced = interp.trace(tiny_vlm(dtype=torch.bfloat16), samples(3), batch_size=3, answers=False)
    assert traced["attention"].dtype == np.float32
    np.testing.assert_allclose(traced["attention"].sum("token"), 1, atol=1e-5)


def test_a_lost_mask_is_seen(vlm: VLM, maskless: None) -> None:
    assert worst(vlm, 1) < 1e-5, "one prompt without padding needs no mask"
    with pytest.raises(CaptureError, match="padding is attended to, so the model's mask was lost"):
        interp.trace(vlm, samples(3), batch_size=3, answers=False)


def test_a_lost_mask_fails_the_comparison(vlm: VLM, maskless: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.capture.record.SUM_TOLERANCE", 2.0)
    assert worst(vlm, 3, self_check=False) > 1e-2


def test_three_samples_need_padding(vlm: VLM) -> None:
    assert len({len(vlm.encode(sample)) for sample in samples(3)}) == 3


def test_the_self_check_names_layer_and_value(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*args: object, **kwargs: object) -> torch.Tensor:
        return attention_rows(*args, **kwargs).roll(1, -1)  # type: ignore[arg-type]

    monkeypatch.setattr("interp.capture.attention.attention_rows", shifted)
    with pytest.raises(CaptureError, match=r"layer 0 do not give the model's own attention output \(off by"):
        interp.trace(vlm, samples(2), answers=False)


def test_the_self_check_sees_rows_that_do_not_sum_to_one(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(*args: object, **kwargs: object) -> torch.Tensor:
        return attention_rows(*args, **kwargs) / 2  # type: ignore[arg-type]

    monkeypatch.setattr("interp.capture.attention.attention_rows", halved)
    with pytest.raises(CaptureError, match="layer 0 are off a sum of one by 0.5"):
        interp.trace(vlm, samples(2), answers=False)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_further_rows_equal_eager(vlm: VLM, batch_size: int) -> None:
    bench = samples(3)
    asked = interp.trace(vlm, bench, batch_size=batch_size, answers=False, queries="question")
    chosen = interp.trace(vlm, bench, batch_size=batch_size, answers=False, queries=[0, 20, -1])
    for i, sample in enumerate(bench):
        full = eager_rows(vlm, sample).numpy()
        length = full.shape[-1]
        at = vlm.encode(sample).question_tokens
        np.testing.assert_allclose(asked["attention_rows"][i, :, :, : len(at), :length], full[:, :, at], atol=1e-5)
        assert asked["query_position"][i].values.tolist()[: len(at)] == at.tolist()
        assert asked["attention_rows"][i, :, :, len(at) :].isnull().all()
        np.testing.assert_allclose(chosen["attention_rows"][i, :, :, :, :length], full[:, :, [0, 20, length - 1]], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_of_the_answer_equal_eager(vlm: VLM, batch_size: int) -> None:
    bench = samples(3)
    traced = interp.trace(vlm, bench, batch_size=batch_size, queries="answer", max_new_tokens=5)
    for i, sample in enumerate(bench):
        encoding = vlm.encode(sample)
        said = torch.as_tensor(traced["answer_ids"][i].values)[None]
        inputs = vlm.batch([encoding])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        vlm.hf_model.set_attn_implementation({"text_config": "eager"})
        with torch.no_grad():
            full = torch.stack(vlm.hf_model(**inputs, output_attentions=True).attentions)[:, 0].numpy()
        vlm.hf_model.set_attn_implementation({"text_config": "sdpa"})
        start, length = len(encoding), full.shape[-1]
        got = traced["attention_rows"][i, :, :, :, :length].fillna(0).values
        np.testing.assert_allclose(got, full[:, :, start:], atol=1e-5)
        assert traced["query_position"][i].values.tolist() == list(range(start, length))


@pytest.mark.parametrize("window", [None, 4])
def test_kernel_without_a_mask_is_causal(window: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, generator=random), torch.randn(2, 2, 9, 8, generator=random)
    at = torch.arange(9)
    allowed = at[None] <= at[:, None]
    if window is not None:
        allowed &= at[None] > at[:, None] - window
    expected = (query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3).masked_fill(~allowed, -torch.inf).softmax(-1)
    rows = torch.tensor([[0, 5], [8, 3]])
    got = attention_rows(query, key, None, 0.3, rows, window)
    for b in range(2):
        torch.testing.assert_close(got[b], expected[b][:, rows[b]])
    torch.testing.assert_close(attention_rows(query, key, None, 0.3, sliding_window=window), expected[:, :, -1:])
    torch.testing.assert_close(attention_rows(query, key, allowed[None, None], 0.3, rows), got)
    additive = torch.zeros(9, 9).masked_fill(~allowed, -torch.inf)[None, None]
    torch.testing.assert_close(attention_rows(query, key, additive, 0.3, rows), got)


def test_the_model_is_left_as_it_was(vlm: VLM) -> None:
    before = vlm.hf_model.config.get_text_config()._attn_implementation
    interp.trace(vlm, samples(1), answers=False)
    assert vlm.hf_model.config.get_text_config()._attn_implementation == before
