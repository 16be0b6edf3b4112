"""Inputs that a model runs without, or on something else, and says nothing: each is guarded, and without the guard the numbers are wrong.

The judge is transformers' own eager forward on the processor's whole output, one prompt at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AddedToken
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import interp
from interp.capture.attention import IMPLEMENTATION
from interp.decoding import Run, needs
from interp.encoding import Encoding, answer_ids, collate
from interp.errors import AlignmentError, CaptureError
from interp.testing import TINY, samples, tiny_vlm
from interp.vlm import VLM

WRONG = 1e-2  # attention off by more than this is another result

# What each family must be told beside ids and pixels, and what becomes of a forward pass without: other numbers, or some error deep inside.
TOLD = [
    ("qwen2_5_vl", "mm_token_type_ids", "wrong"),
    ("qwen3_vl", "mm_token_type_ids", "wrong"),
    ("gemma3", "token_type_ids", "wrong"),
    ("gemma3_pan_and_scan", "token_type_ids", "wrong"),
    ("llava_next", "image_sizes", "obscure"),
    ("llava_onevision", "image_sizes", "obscure"),
    ("llava_onevision", "batch_num_images", "obscure"),
    ("qwen2_5_vl", "image_grid_thw", "obscure"),
    ("qwen3_vl", "image_grid_thw", "obscure"),
]
EVERYWHERE = [(name, "pixel_values", "wrong") for name in TINY] + [
    ("llava", "attention_mask", "wrong"),
    ("gemma3", "attention_mask", "wrong"),
]


@cache
def model(name: str) -> VLM:
    """A tiny model; of ``NAME wide`` the window is wider than the prompts, as it is of released checkpoints on a short prompt."""
    vlm = tiny_vlm(name.removesuffix(" wide"))
    if name.endswith(" wide"):
        vlm.hf_model.config.get_text_config().sliding_window = 1024
        for layer in vlm.layers:
            layer.self_attn.sliding_window = layer.self_attn.sliding_window and 1024
    return vlm


@cache
def bench() -> tuple[interp.Sample, ...]:
    return (samples(1, seed=2, n_images=2)[0], *samples(2, seed=1))


@cache
def eager(name: str, index: int) -> NDArray[np.float32]:
    """(layer, head, token) of the last prompt token by transformers alone."""
    vlm = model(name)
    vlm.hf_model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        found = vlm.hf_model(**vlm.encode(bench()[index]).inputs, output_attentions=True, use_cache=False).attentions
    vlm.hf_model.set_attn_implementation({"text_config": "sdpa"})
    return torch.stack(found)[:, 0, :, -1].numpy()


def off(name: str, batch_size: int = 3, self_check: bool = True) -> float:
    """How far traced rows are from eager ones."""
    traced = interp.trace(model(name), bench(), batch_size=batch_size, answers=False, self_check=self_check)["attention"].values
    gaps = []
    for index, row in enumerate(traced):
        expected = eager(name, index)
        gaps.append(np.nanmax(np.abs(row[:, :, : expected.shape[-1]] - expected)))
    return float(max(gaps))


def unguarded(monkeypatch: pytest.MonkeyPatch, *guards: str) -> None:
    for guard in guards:
        monkeypatch.setattr(guard, lambda *_: None)


def dropping(key: str) -> Callable[[Sequence[Encoding], int], dict[str, torch.Tensor]]:
    return lambda encodings, pad: {name: value for name, value in collate(encodings, pad).items() if name != key}


def test_what_a_model_needs_is_read_off_its_signatures() -> None:
    told = {name: {key for other, key, _ in TOLD if other == name} for name in TINY}
    for name in TINY:
        needed = set(needs(model(name).hf_model))
        assert needed == {"attention_mask", "pixel_values"} | told[name]
        assert needed <= set(model(name).encode(bench()[0]).inputs)
        assert off(name) < 1e-5


@pytest.mark.parametrize(("name", "key", "without"), TOLD + EVERYWHERE)
def test_a_batch_that_lost_an_input_is_refused(name: str, key: str, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.vlm.collate", dropping(key))
    with pytest.raises(AlignmentError, match=rf"inputs lack {key}, and \w+ would fail or give other numbers"):
        interp.trace(model(name), bench(), batch_size=3, answers=False)
    with pytest.raises(AlignmentError, match=f"inputs lack {key}"):
        model(name).generate(bench())
    unguarded(monkeypatch, "interp.decoding._check_pictures", "interp.capture.record._check_padding")
    if without == "wrong":
        assert off(name, self_check=False) > WRONG
    else:
        with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)):
            off(name)


@pytest.mark.parametrize(("name", "key"), [case[:2] for case in TOLD])
def test_an_encoding_that_lost_an_input_is_refused(name: str, key: str) -> None:
    vlm = model(name)
    whole = [vlm.encode(sample) for sample in bench()]
    less = replace(whole[0], inputs={k: v for k, v in whole[0].inputs.items() if k != key})
    with pytest.raises(AlignmentError, match=f"inputs lack {key}"):
        Run.start(vlm.hf_model, vlm.batch([less])).prefill_inputs()
    for mixed in ([less, whole[1]], [whole[1], less]):
        with pytest.raises(AlignmentError, match=f"Some prompts of a batch lack {key}; "):
            vlm.batch(mixed)


@pytest.mark.parametrize(("name", "key"), [case[:2] for case in TOLD if case[1].endswith("type_ids")])
@pytest.mark.parametrize("change", [torch.zeros_like, lambda types: types.roll(1, -1)], ids=["zeros", "shifted"])
def test_types_that_do_not_fit_the_tokens_are_refused(
    name: str, key: str, change: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All zeros is what a tokenizer of its own returns under this name."""

    def changed(encodings: Sequence[Encoding], pad: int) -> dict[str, torch.Tensor]:
        batch = collate(encodings, pad)
        return {**batch, key: change(batch[key])}

    monkeypatch.setattr("interp.vlm.collate", changed)
    with pytest.raises(AlignmentError, match=rf"^{key} marks other tokens than the \d+ image tokens"):
        interp.trace(model(name), bench(), batch_size=3, answers=False)
    unguarded(monkeypatch, "interp.decoding._check_pictures")
    try:
        assert off(name) > WRONG
    except IndexError:  # a model that counts positions by them may run out of pictures
        assert change is not torch.zeros_like


class Wrapped:
    """A user's processor: another one whose outputs are changed."""

    def __init__(self, processor: Any, change: Callable[[dict[str, Any]], Mapping[str, Any]], hidden: Sequence[str] = ()) -> None:
        self._processor, self._change, self._hidden = processor, change, hidden

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden:
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, **asked: Any) -> Mapping[str, Any]:
        return self._change(dict(self._processor(**asked)))


def asked_through(name: str, change: Callable[[dict[str, Any]], Mapping[str, Any]], hidden: Sequence[str] = ()) -> VLM:
    """The family's model behind a changed processor."""
    vlm = tiny_vlm(name)
    vlm.processor = Wrapped(vlm.processor, change, hidden)
    return vlm


def without(key: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda outputs: {name: value for name, value in outputs.items() if name != key}


@pytest.mark.parametrize(("name", "key"), [case[:2] for case in TOLD])
def test_a_processor_that_leaves_an_input_out_is_refused(name: str, key: str) -> None:
    with pytest.raises(AlignmentError, match=f"Wrapped lists {key} among the model's inputs but did not return it"):
        asked_through(name, without(key)).encode(bench()[0])
    silent = asked_through(name, without(key), hidden=["model_input_names"])  # nor does it say what it should return
    with pytest.raises(AlignmentError, match=rf"inputs lack {key}|does not describe all 2 picture\(s\)"):
        silent.generate(bench()[0])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_processor_told_to_leave_the_types_out_is_refused(name: str) -> None:
    vlm = tiny_vlm(name)
    vlm.processor.return_mm_token_type_ids = False
    with pytest.raises(AlignmentError, match="did not return it, and the model would go on without; do not switch it off"):
        interp.trace(vlm, bench(), answers=False)


def swapped(outputs: dict[str, Any]) -> Mapping[str, Any]:
    return {**outputs, "image_sizes": outputs["image_sizes"].flip(0)}


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_sizes_of_other_pictures_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Image.effect_noise((60, 34), 90).convert("RGB"), Image.effect_noise((34, 60), 90).convert("RGB")]
    sample = interp.Sample("s", pictures, "what is it", "one")
    vlm = asked_through(name, swapped)
    with pytest.raises(
        AlignmentError, match=re.escape("image_sizes=[[60, 34], [34, 60]], where the pictures of the prompt make it [[34, 60], [6")
    ):
        vlm.encode(sample)
    if name == "llava_next":  # the other shows several pictures as squares, whatever their sizes
        expected = interp.trace(tiny_vlm(name), [sample], answers=False)["attention"].values
        unguarded(monkeypatch, "interp.encoding._check_pictures")
        assert np.abs(interp.trace(vlm, [sample], answers=False)["attention"].values - expected).max() > WRONG


def test_pictures_of_one_prompt_counted_as_prompts_are_refused() -> None:
    """One by one, each would be shown in tiles; together, as squares only."""

    class Flat(Wrapped):
        def __call__(self, **asked: Any) -> Mapping[str, Any]:
            return self._processor(**{**asked, "images": [picture for pictures in asked["images"] for picture in pictures]})

    vlm = tiny_vlm("llava_onevision")
    vlm.processor = Flat(vlm.processor, dict)
    with pytest.raises(AlignmentError, match=re.escape("returned batch_num_images=[1, 1], where the pictures of the prompt make it [2]")):
        vlm.encode(bench()[0])


@pytest.mark.parametrize("name", TINY)
def test_another_prompt_between_two_steps_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = model(name)
    first, *others = bench()
    words = torch.tensor([[20], [21], [22]])

    def steps(between: bool, positions: bool = True) -> torch.Tensor:
        with torch.no_grad():
            run = Run.start(vlm.hf_model, vlm.batch([vlm.encode(first)]))
            if between:
                vlm.generate(others, max_new_tokens=1)
            outputs = vlm.hf_model(**run.prefill_inputs())
            logits = [outputs.logits[0, -1]]
            for word in words:
                if between:
                    vlm.generate(others[:1], max_new_tokens=2)
                inputs = run.advance(outputs, word[None])
                if not positions:
                    inputs = {key: value for key, value in inputs.items() if key not in ("position_ids", "attention_mask")}
                outputs = vlm.hf_model(**inputs)
                logits.append(outputs.logits[0, -1])
        return torch.stack(logits)

    alone = steps(between=False)
    assert torch.equal(steps(between=True), alone)
    if hasattr(vlm.hf_model.model, "rope_deltas"):
        assert (steps(between=True, positions=False) - alone).abs().max() > 0.1, "what the model kept is another prompt's"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_run_without_positions_is_refused(name: str) -> None:
    vlm = model(name)
    run = Run.start(vlm.hf_model, vlm.batch([vlm.encode(bench()[0])]))
    with torch.no_grad():
        outputs = vlm.hf_model(**run.prefill_inputs())
    del run.carried["position_ids"]
    for go in (run.prefill_inputs, lambda: run.advance(outputs, torch.tensor([[20]]))):
        with pytest.raises(AlignmentError, match="was not given its tokens' positions"):
            go()


def forget_the_mask() -> None:
    ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop(IMPLEMENTATION)


@pytest.mark.parametrize("name", ["llava", "gemma3 wide"])
def test_a_mask_function_forgotten_is_registered_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_mask()
    assert off(name, batch_size=1) < 1e-5
    forget_the_mask()
    assert off(name, batch_size=3) < 1e-5
    unguarded(monkeypatch, "interp.capture.attention.register")
    forget_the_mask()
    try:
        # picture tokens that see each other: lost without padding, and with rows that sum to one and give the model's own values
        assert (off(name, batch_size=1) > WRONG) == (name == "gemma3 wide")
        with pytest.raises(CaptureError, match="padding is attended to"):
            off(name, batch_size=3)
    finally:
        monkeypatch.undo()
        assert off(name, batch_size=1) < 1e-5


def written(name: str) -> list[str]:
    return sorted({*model(name).processor.tokenizer.all_special_tokens, *model(name).processor.all_special_multimodal_tokens})


@pytest.mark.parametrize("name", TINY)
def test_special_tokens_in_a_text_are_refused(name: str) -> None:
    vlm = model(name)
    picture = samples(1)[0].images[0]
    assert "</s>" in written(name) and len(written(name)) >= 5
    for token in written(name):
        told = rf"holds '{re.escape(token)}', which this model's tokenizer reads as a special token"
        for question in (f"what is {token} here", token, f"what{token}"):
            with pytest.raises(AlignmentError, match="Sample 's': the prompt .*" + told):
                vlm.encode(interp.Sample("s", picture, question, "one"))
        plain = interp.Sample("s", picture, "what is it", "one")
        with pytest.raises(AlignmentError, match=told):
            vlm.encode(plain, f"describe {token} . {{question}}")
        for turn in ((f"what {token}", "one"), ("what", f"one {token}")):
            with pytest.raises(AlignmentError, match="the earlier turn .*" + told):
                vlm.encode(plain, history=[turn])
        with pytest.raises(AlignmentError, match="The answer .*" + told):
            answer_ids(vlm.processor, vlm.encode(plain).text, f"one {token}")
        remedy = vlm.encode(interp.Sample("s", picture, f"what is {token[0]} {token[1:]} here", "one"))
        assert (remedy.token_ids == vlm.hf_model.config.image_token_id).sum() == (remedy.image_index >= 0).sum()


def test_other_spellings_of_a_special_token_are_refused() -> None:
    """A tokenizer that normalises first reads them too."""
    vlm = tiny_vlm()
    vlm.processor.tokenizer.add_tokens([AddedToken("<end>", special=True, normalized=True)], special_tokens=True)
    for spelling in ("<end>", "<END>", "<End>"):
        with pytest.raises(AlignmentError, match="holds '<end>'"):
            vlm.encode(interp.Sample("s", samples(1)[0].images[0], f"what is {spelling}", "one"))


def test_words_that_are_only_unknown_are_welcome() -> None:
    vlm = model("llava")
    encoding = vlm.encode(interp.Sample("s", samples(1)[0].images[0], "zebra < image > , a < b", "one"))
    assert vlm.processor.tokenizer.unk_token_id in encoding.token_ids[encoding.question_tokens]
