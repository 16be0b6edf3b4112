"""`head_sweep` against one plain forward pass per head: PyTorch hooks on the output projection, nothing shared with the sweep."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.errors import BenchmarkError, CaptureError, InterpError
from interp.interventions import HeadReference, head_reference, head_sweep
from interp.interventions.branches import branch_attention
from interp.testing import TINY, carrying_head, samples, tiny_vlm
from interp.vlm import VLM

MODES = ("zero", "mean", "resample")
POSITIONS = ("last", "generated", "all")


@cache
def model(name: str) -> VLM:
    return tiny_vlm(name)


def ask(references: Sequence[str], place: int = 1, n_images: int = 1) -> interp.Sample:
    """A seeded sample with other references."""
    one = samples(3, n_images=n_images)[place]
    return interp.Sample(one.id, one.images, one.question, references, one.regions, image_id=one.image_id, knobs=one.knobs)


@cache
def reference(name: str) -> HeadReference:
    return head_reference(model(name), samples(3, seed=7), name="others", positions="all")


# ---------------------------------------------------------------------------------------- the oracle: plain PyTorch


def tokens_of(vlm: VLM, text: str) -> list[int]:
    """Of words that are one token each, and the end token."""
    tokenizer = vlm.processor.tokenizer
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def plain_inputs(vlm: VLM, sample: interp.Sample, fed: Sequence[int], copies: int) -> dict[str, torch.Tensor]:
    inputs = vlm.batch([vlm.encode(sample)] * copies)
    length = inputs["input_ids"].shape[1]
    more = torch.tensor([list(fed)] * copies, dtype=torch.long)
    for name, value in list(inputs.items()):
        if value.ndim == 2 and value.shape == (copies, length) and not value.is_floating_point():
            fill = more if name == "input_ids" else torch.full_like(more, int(name == "attention_mask"))
            inputs[name] = torch.cat([value, fill], 1)
    return inputs


@torch.no_grad()
def plain(vlm: VLM, sample: interp.Sample, wanted: Sequence[int], edit: Callable[[int, torch.Tensor], None] | None = None) -> torch.Tensor:
    """(copy, step, vocabulary) logits that score `wanted`; `edit` changes the input (copy, token, feature) of layer l's o_proj."""
    hooks = []
    if edit is not None:
        for place, layer in enumerate(vlm.layers):

            def hook(module: Any, args: tuple[torch.Tensor], place: int = place) -> tuple[torch.Tensor]:
                changed = args[0].clone()
                edit(place, changed)
                return (changed,)

            hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(hook))
    try:
        copies = vlm.n_heads if edit is not None else 1
        return vlm.hf_model(**plain_inputs(vlm, sample, wanted[:-1], copies)).logits[:, -len(wanted) :]
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def plain_outputs(vlm: VLM, sample: interp.Sample) -> torch.Tensor:
    """(layer, token, head * feature) inputs of the output projections."""
    kept: list[torch.Tensor] = []
    hooks = [layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0][0])) for layer in vlm.layers]
    vlm.hf_model(**vlm.batch([vlm.encode(sample)]))
    for hook in hooks:
        hook.remove()
    return torch.stack(kept)


def substitute(
    vlm: VLM, ref: HeadReference | None, mode: str, positions: str, sample: interp.Sample, tokens: int, fed: int
) -> torch.Tensor:
    """(layer, token, head * feature) what stands in, from plain hooks on the reference samples."""
    if mode == "zero" or ref is None:
        return torch.zeros(vlm.n_layers, tokens, vlm.layers[0].self_attn.o_proj.in_features)
    stored = [plain_outputs(vlm, one) for one in samples(3, seed=7)]
    if mode == "mean":
        mean = torch.cat(stored, 1).mean(1) if positions == "all" else torch.stack([one[:, -1] for one in stored]).mean(0)
        return mean[:, None].expand(-1, tokens, -1)
    donor = stored[ref.donor(sample.id, sample.image_id)]
    if positions != "all":
        return donor[:, -1:].expand(-1, tokens, -1)
    after = [donor[:, -1:]] * fed
    body = donor[:, -(tokens - fed) :]
    before = [donor[:, :1]] * (tokens - fed - body.shape[1])
    return torch.cat([*before, body, *after], 1)


def naive(vlm: VLM, sample: interp.Sample, wanted: Sequence[int], mode: str, positions: str, ref: HeadReference | None) -> torch.Tensor:
    """(layer, head, step, vocabulary) logits of one altered forward pass per head; the heads of a layer are copies in one batch."""
    tokens = len(vlm.encode(sample)) + len(wanted) - 1
    last = tokens - len(wanted)
    at = {"last": slice(last, last + 1), "generated": slice(last, None), "all": slice(None)}[positions]
    instead = substitute(vlm, ref, mode, positions, sample, tokens, len(wanted) - 1)
    width = vlm.layers[0].self_attn.head_dim

    def logits(layer: int) -> torch.Tensor:
        def edit(place: int, entering: torch.Tensor) -> None:
            for head in range(vlm.n_heads if place == layer else 0):
                mine = slice(head * width, (head + 1) * width)
                entering[head, at, mine] = instead[layer, at, mine]

        return plain(vlm, sample, wanted, edit)

    return torch.stack([logits(layer) for layer in range(vlm.n_layers)])


def score(logits: torch.Tensor, wanted: Sequence[int]) -> np.ndarray:
    chosen = logits.log_softmax(-1).double()
    return sum(chosen[..., step, token] for step, token in enumerate(wanted)).numpy()  # type: ignore[union-attr]


def check(
    vlm: VLM, sample: interp.Sample, wanted: Sequence[int], got: xr.Dataset, mode: str, positions: str, ref: HeadReference | None
) -> None:
    clean, altered = plain(vlm, sample, wanted), naive(vlm, sample, wanted, mode, positions, ref)
    one = got.isel(sample=0)
    assert one["reference_ids"].values[: len(wanted)].tolist() == list(wanted)
    np.testing.assert_allclose(one["reference_logprob"], score(clean, wanted)[0], atol=1e-4)
    expected = score(altered, wanted) - score(clean, wanted)
    assert np.abs(expected).max() > 1e-2, "heads matter"
    np.testing.assert_allclose(one["delta_logprob"], expected, atol=1e-4)
    flips = (altered.argmax(-1) != clean.argmax(-1)).any(-1)
    np.testing.assert_array_equal(one["flip"], flips)
    step = int(one["foil_position"])
    foil = int(one["foil_ids"][step])
    assert foil != wanted[step]
    gap = altered[..., step, wanted[step]] - altered[..., step, foil]
    clean_gap = (clean[0, step, wanted[step]] - clean[0, step, foil]).item()
    np.testing.assert_allclose(one["logit_diff"], clean_gap, atol=1e-4)
    np.testing.assert_allclose(one["delta_logit_diff"], gap.numpy() - clean_gap, atol=2e-4)


# ------------------------------------------------------------------------------------------------------- exactness

WAYS = [(name, positions, MODES[(k + p) % 3], k + p) for k, name in enumerate(TINY) for p, positions in enumerate(POSITIONS)]


@pytest.mark.parametrize(("name", "positions", "mode", "turn"), WAYS)
def test_equals_one_forward_pass_per_head(name: str, positions: Any, mode: Any, turn: int) -> None:
    """Answers of one and of three words, one picture and two, prompts longer than a sliding window."""
    vlm, words = model(name), "two three four" if turn % 2 else "two"
    sample = ask([words], n_images=1 + (turn % 4 == 1))
    ref = reference(name) if mode != "zero" else None
    got = head_sweep(vlm, [sample], mode=mode, positions=positions, reference=ref, max_new_tokens=1)
    check(vlm, sample, tokens_of(vlm, words), got, mode, positions, ref)


def test_a_window_shorter_than_the_answer() -> None:
    """Later answer tokens see neither the prompt nor the first ones."""
    vlm = tiny_vlm("gemma3")
    for layer in vlm.layers:
        if layer.self_attn.sliding_window:
            layer.self_attn.sliding_window = 2
    vlm.hf_model.config.get_text_config().sliding_window = 2
    sample, wanted = ask(["two three four"]), tokens_of(vlm, "two three four")
    for positions in POSITIONS:
        got = head_sweep(vlm, [sample], positions=positions, max_new_tokens=1)
        check(vlm, sample, wanted, got, "zero", positions, None)


def test_the_shipped_model() -> None:
    vlm = interp.load_vlm("demo/llava", device="cpu", dtype="float32")
    sample = interp.load_benchmark("digits", split="test", limit=4)[3]
    got = head_sweep(vlm, [sample], positions="generated")
    wanted = got["reference_ids"].values[0]
    check(vlm, sample, wanted[wanted >= 0].tolist(), got, "zero", "generated", None)


def test_zero_everywhere_is_zeroed_output_weights() -> None:
    vlm, sample = tiny_vlm("qwen3_vl"), ask(["two three"])
    wanted = tokens_of(vlm, "two three")
    got = head_sweep(vlm, [sample], positions="all", max_new_tokens=1)
    clean = score(plain(vlm, sample, wanted), wanted)[0]
    width = vlm.layers[0].self_attn.head_dim
    for layer, head in ((0, 1), (2, 3), (3, 0)):
        weight = vlm.layers[layer].self_attn.o_proj.weight.data
        columns = weight[:, head * width : (head + 1) * width]
        kept = columns.clone()
        columns.zero_()
        expected = score(plain(vlm, sample, wanted), wanted)[0] - clean
        columns.copy_(kept)
        np.testing.assert_allclose(got["delta_logprob"].sel(layer=layer, head=head), expected, atol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_chunks_do_not_matter(positions: Any) -> None:
    vlm, bench = model("llava"), samples(2)
    whole = head_sweep(vlm, bench, positions=positions, max_new_tokens=1)
    rows: list[int] = []
    hook = vlm.hf_model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        parts = head_sweep(vlm, bench, positions=positions, max_new_tokens=1, chunk=3)
    finally:
        hook.remove()
    for name in ("delta_logprob", "delta_logit_diff"):
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-5)
    np.testing.assert_array_equal(parts["flip"], whole["flip"])
    assert max(rows) == 3, "the output layer never sees more branches than a chunk has"


def test_half_precision_runs() -> None:
    exact = head_sweep(model("llava"), samples(1), max_new_tokens=1)
    rough = head_sweep(tiny_vlm(dtype=torch.bfloat16), samples(1), max_new_tokens=1)
    assert np.corrcoef(exact["delta_logprob"].values.ravel(), rough["delta_logprob"].values.ravel())[0, 1] > 0.8


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    branches=st.integers(1, 3), groups=st.integers(1, 2), share=st.integers(1, 3), steps=st.integers(1, 4),
    before=st.integers(0, 9), window=st.one_of(st.none(), st.integers(1, 12)),
)  # fmt: skip
def test_branches_attend_as_if_each_had_the_whole_prompt(
    branches: int, groups: int, share: int, steps: int, before: int, window: int | None
) -> None:
    random = torch.Generator().manual_seed(steps + 10 * before)
    query = torch.randn(branches, groups * share, steps, 8, generator=random)
    own = [torch.randn(branches, groups, steps, 8, generator=random) for _ in range(2)]
    prefix = [torch.randn(groups, before, 8, generator=random) for _ in range(2)]
    keys, values = (torch.cat([p.expand(branches, -1, -1, -1), o], 2).repeat_interleave(share, 1) for p, o in zip(prefix, own, strict=True))
    at = torch.arange(before + steps)
    allowed = at <= at[:, None]
    if window is not None:
        allowed &= at > at[:, None] - window
    weights = (query @ keys.transpose(2, 3) * 0.3).masked_fill(~allowed[before:], -torch.inf).softmax(-1)
    got = branch_attention(query, own[0], own[1], prefix[0], prefix[1], 0.3, window)
    torch.testing.assert_close(got, (weights @ values).transpose(1, 2))


# ------------------------------------------------------------------------------------------------- what it is about


def test_it_finds_the_head_that_carries_the_answer() -> None:
    vlm, (layer, head), bench = carrying_head()
    assert vlm.generate(bench) == [sample.references[0] for sample in bench]
    for positions in POSITIONS:
        got = head_sweep(vlm, bench, positions=positions)
        others = xr.ones_like(got["flip"].isel(sample=0), dtype=bool)
        others.loc[{"layer": layer, "head": head}] = False
        assert (got["exact_match"] == 1).all()
        assert (got["delta_logit_diff"].sel(layer=layer, head=head) < -10).all()
        assert float(np.abs(got["delta_logit_diff"].where(others)).max()) < 1
        assert got["flip"].sel(layer=layer, head=head).all()
        assert not got["flip"].where(others, False).any()


@pytest.mark.parametrize(("layer", "head"), [(0, 3), (3, 2)])
def test_the_carrying_head_is_where_it_is_asked_for(layer: int, head: int) -> None:
    vlm, place, bench = carrying_head(layer, head, n=2, seed=3)
    effect = head_sweep(vlm, bench)["delta_logprob"].mean("sample")
    assert place == (layer, head)
    assert [int(effect.argmin(["layer", "head"])[d]) for d in ("layer", "head")] == [layer, head]  # pyright: ignore


def test_resampling_the_carrying_head_brings_the_other_colour() -> None:
    vlm, (layer, head), (red, blue) = carrying_head(n=2)
    asked = interp.Sample("wrong", red.images, red.question, "blue", image_id="red")
    got = head_sweep(vlm, [asked], mode="resample", reference=head_reference(vlm, [blue], name="blue"))
    there = got.isel(sample=0).sel(layer=layer, head=head)
    assert str(there["foil"].values) == "red"
    assert float(there["logit_diff"]) < -5
    assert float(there["logit_diff"] + there["delta_logit_diff"]) > 5


def test_the_foil_of_a_wrong_answer_is_that_answer() -> None:
    vlm = model("llava")
    said = vlm.generate(ask(["one"]), max_new_tokens=3).split()
    shared = f"{said[0]} one"
    got = head_sweep(vlm, [ask([shared])], max_new_tokens=3).isel(sample=0)
    tokens = tokens_of(vlm, " ".join(said))
    assert got["exact_match"] == 0
    assert got["foil_position"] == 1
    assert got["foil_ids"].values[:3].tolist() == tokens[:3]


def test_the_foil_of_a_right_answer_is_the_runner_up() -> None:
    vlm = model("llava")
    said = vlm.generate(ask(["one"]), max_new_tokens=2)
    sample = ask([said])
    got = head_sweep(vlm, [sample], max_new_tokens=2)
    assert got["exact_match"].item() == 1
    assert got["foil_position"].item() == 0
    wanted = tokens_of(vlm, said)
    first = plain(vlm, sample, wanted)[0, 0]
    first[wanted[0]] = -torch.inf
    assert got["foil_ids"].values[0, 0] == first.argmax()
    check(vlm, sample, wanted, got, "zero", "last", None)


def test_the_most_probable_reference_counts() -> None:
    vlm, words = model("llava"), ["three", "red", "two three"]
    scores = [score(plain(vlm, ask([one]), tokens_of(vlm, one)), tokens_of(vlm, one))[0] for one in words]
    for order in (words, words[::-1]):
        got = head_sweep(vlm, [ask(order)], max_new_tokens=1)
        assert str(got["reference"].values[0]) == words[int(np.argmax(scores))]
        np.testing.assert_allclose(got["reference_logprob"], max(scores), atol=1e-4)


def test_an_answer_cut_off_before_it_differs_has_no_foil() -> None:
    vlm = model("llava")
    said = vlm.generate(ask(["one"]), max_new_tokens=2)
    got = head_sweep(vlm, [ask([f"{said} one"])], max_new_tokens=2)
    assert got["foil_position"].item() == -1
    assert got["delta_logit_diff"].isnull().all()
    assert got["delta_logit_diff"].attrs["n_undefined"] == 1
    assert got["delta_logprob"].notnull().all()


def test_labels() -> None:
    vlm, bench = model("llava"), samples(2)
    got = head_sweep(vlm, bench, mode="mean", reference=reference("llava"), max_new_tokens=1)
    traced = interp.trace(vlm, bench, max_new_tokens=1)
    same = ("sample", "image_id", "dataset", "split", "knob_cards", "knob_arm", "layer", "head", "layer_kind", "visibility")
    for name in (*same, "prediction", "exact_match"):
        assert got[name].values.tolist() == traced[name].values.tolist(), name
    assert all(name in got.coords for name in same)
    np.testing.assert_allclose(got["reference_logprob"], traced["reference_logprob"], atol=1e-4)
    assert {name: got.attrs[name] for name in ("model", "revision", "mode", "positions", "reference", "prompt")} == {
        "model": vlm.name, "revision": vlm.revision, "mode": "mean", "positions": "last", "reference": "others", "prompt": "base",
    }  # fmt: skip
    for name in ("delta_logprob", "delta_logit_diff", "flip", "reference_logprob", "logit_diff"):
        assert got[name].attrs["long_name"]
    assert got["delta_logprob"].attrs["units"] == "nat"


# ------------------------------------------------------------------------------------------------ reference sets


def test_a_reference_holds_what_plain_hooks_see() -> None:
    vlm, ref = model("gemma3"), reference("gemma3")
    stored = [plain_outputs(vlm, one) for one in samples(3, seed=7)]
    shape = (vlm.n_heads, -1)
    for donor, expected in enumerate(stored):
        got = ref.value(1, [2, 0], mode="resample", donor=donor)
        torch.testing.assert_close(got, expected[1, -1:].unflatten(-1, shape)[:, [2, 0]].transpose(0, 1))
        n = len(expected[0])
        whole = ref.value(1, slice(None), mode="resample", positions="all", donor=donor, n_positions=n + 3, n_answer=1)
        at = [0, 0, *range(n), n - 1]
        torch.testing.assert_close(whole, expected[1, at].unflatten(-1, shape).transpose(0, 1))
    mean = torch.stack([one[:, -1] for one in stored]).mean(0)[3].unflatten(-1, shape)
    torch.testing.assert_close(ref.value(3, [1], mode="mean"), mean[[1], None])
    assert not ref.value(0, [0, 1], mode="zero", positions="all").any()


def test_a_donor_is_of_another_picture_and_drawn_from_the_id() -> None:
    ref = head_reference(model("llava"), samples(6), name="r")
    donors = [ref.donor(f"s{k}", "picture-0-1") for k in range(40)]
    assert set(donors) == {0, 1, 4, 5}, "all samples but the two about this picture"
    assert donors == [ref.donor(f"s{k}", "picture-0-1") for k in range(40)]
    assert donors != [dataclasses.replace(ref, seed=1).donor(f"s{k}", "picture-0-1") for k in range(40)]
    bench = [ask(["one"], place) for place in range(3)]
    together = head_sweep(model("llava"), bench, mode="resample", reference=ref, max_new_tokens=1)
    alone = head_sweep(model("llava"), bench[2:], mode="resample", reference=ref, max_new_tokens=1)
    np.testing.assert_array_equal(together["delta_logprob"][2:], alone["delta_logprob"])


# ----------------------------------------------------------------------------------------- the model stays as it was


def test_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = model("llava")
    config = vlm.hf_model.config.get_text_config()

    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in vlm.hf_model.modules())

    before = config._attn_implementation, hooks()
    head_sweep(vlm, samples(1), max_new_tokens=1)
    assert (config._attn_implementation, hooks()) == before

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(vlm.hf_model.lm_head, "forward", broken)
    with pytest.raises(RuntimeError, match="broken"):
        head_sweep(vlm, samples(1), max_new_tokens=1)
    assert (config._attn_implementation, hooks()) == before


def test_another_pass_meanwhile_is_not_recorded() -> None:
    vlm, other, seen = tiny_vlm(), samples(2)[1], list[int]()
    expected = head_sweep(vlm, samples(1), max_new_tokens=1)
    inputs = vlm.batch([vlm.encode(other)])

    def meanwhile(*_: Any) -> None:
        if not seen:
            seen.append(1)
            vlm.hf_model(**inputs, use_cache=False)

    vlm.layers[2].mlp.register_forward_hook(meanwhile)
    got = head_sweep(vlm, samples(1), max_new_tokens=1)
    assert seen
    np.testing.assert_array_equal(got["delta_logprob"], expected["delta_logprob"])


def test_two_models_at_once() -> None:
    names, found = ("llava", "gemma3"), dict[str, xr.Dataset]()
    expected = {name: head_sweep(model(name), samples(2), max_new_tokens=1) for name in names}

    def work(name: str) -> None:
        found[name] = head_sweep(model(name), samples(2), max_new_tokens=1)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        np.testing.assert_array_equal(found[name]["delta_logprob"], expected[name]["delta_logprob"])


def test_logits_made_in_another_way_are_refused() -> None:
    vlm = tiny_vlm()

    def softer(module: Any, args: Any, outputs: Any) -> Any:
        outputs.logits = outputs.logits / 2
        return outputs

    vlm.hf_model.register_forward_hook(softer)
    with pytest.raises(CaptureError, match="gives other logits than the model itself"):
        head_sweep(vlm, samples(1), max_new_tokens=1)


def test_an_attention_that_was_switched_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm()
    switch = vlm.hf_model.set_attn_implementation
    monkeypatch.setattr(vlm.hf_model, "set_attn_implementation", lambda _: None)
    with pytest.raises(CaptureError, match="Layer 0 does not attend through the registered implementation"):
        head_sweep(vlm, samples(1), max_new_tokens=1)
    monkeypatch.undo()
    last = vlm.layers[3].mlp
    last.register_forward_hook(lambda *_: switch({"text_config": "sdpa"}))  # somebody else switches between prompt and branches
    with pytest.raises(CaptureError, match="Layer 0 does not attend through the registered implementation"):
        head_sweep(vlm, samples(1), max_new_tokens=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "none"}, "Ablation mode 'none' is unknown; use 'zero', 'mean' or 'resample'."),
        ({"positions": "first"}, "Ablation positions 'first' is unknown; use 'last', 'generated' or 'all'."),
        ({"mode": "mean"}, "Ablation mode 'mean' needs a reference set; pass reference="),
        ({"chunk": 0}, r"max_new_tokens \(16\) and chunk \(0\) must be 1 or more."),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) and chunk \(None\) must be 1 or more."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        head_sweep(model("llava"), samples(1), **arguments)


def test_bad_sets() -> None:
    vlm, bench = model("llava"), samples(2)
    with pytest.raises(BenchmarkError, match="The benchmark has no samples"):
        head_sweep(vlm, [])
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        head_sweep(vlm, [bench[0], bench[0]])
    with pytest.raises(BenchmarkError, match="Head reference 'r' has no samples; give at least one."):
        head_reference(vlm, [], name="r")
    with pytest.raises(InterpError, match="Reference positions 'some' are not understood; use 'last' or 'all'."):
        head_reference(vlm, bench, name="r", positions="some")  # type: ignore[arg-type]
    small = head_reference(vlm, bench, name="small")
    with pytest.raises(InterpError, match="Head reference 'small' holds no picture but that of sample 'synthetic-0-0'"):
        head_sweep(vlm, bench, mode="resample", reference=small)
    with pytest.raises(InterpError, match="holds donors at the last prompt token only; make it with head_reference"):
        head_sweep(vlm, samples(1, seed=2), mode="resample", positions="all", reference=small)
    with pytest.raises(InterpError, match="needs a donor; pass donor="):
        small.value(0, [0], mode="resample")
    with pytest.raises(InterpError, match="Head reference 'small' is of model 'tiny/llava', not 'tiny/gemma3'; make it anew"):
        head_sweep(model("gemma3"), bench, mode="mean", reference=small)
    with pytest.raises(InterpError, match="Head 4 of layer 0 cannot carry the answer"):
        carrying_head(0, 4)
