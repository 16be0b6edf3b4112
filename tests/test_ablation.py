"""Head ablation is what a plain PyTorch hook does, in every family, wherever the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.capture.features import token_features
from interp.capture.sinks import sinks
from interp.circuits import attribute, lens
from interp.errors import InterpError
from interp.interventions import HeadReference, ablate_heads, head_reference, head_sweep, knockout
from interp.testing import TINY, samples, tiny_vlm
from interp.vlm import VLM

HEADS = [(1, 2), (2, 0), (2, 3)]


@cache
def model(family: str) -> VLM:
    return tiny_vlm(family)


@cache
def reference(family: str) -> HeadReference:
    return head_reference(model(family), samples(4, seed=9), name="noise", positions="all")


@contextmanager
def hooked(vlm: VLM, change: Callable[[torch.Tensor, int, int], None]) -> Iterator[None]:
    """`change(outputs of all heads (batch, step, head, feature), layer, head)` by plain hooks on the output projections."""
    handles = []
    for layer, head in HEADS:
        size = vlm.layers[layer].self_attn.head_dim

        def hook(_: Any, args: tuple[torch.Tensor, ...], layer: int = layer, head: int = head, size: int = size) -> tuple[torch.Tensor]:
            mixed = args[0].clone()
            change(mixed.view(*mixed.shape[:2], -1, size), layer, head)
            return (mixed,)

        handles.append(vlm.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits(vlm: VLM, sample: interp.Sample) -> torch.Tensor:
    """Of the next token, from one prompt."""
    run = vlm.start([vlm.encode(sample)])
    with torch.no_grad():
        return run.forward(run.prefill_inputs(), logits_to_keep=1).logits[0, -1]


def outputs_of_heads(vlm: VLM, sample: interp.Sample) -> list[torch.Tensor]:
    """Per layer (step, head, feature), read with plain hooks from a forward pass of its own."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0][0].view(args[0].shape[1], vlm.n_heads, -1))

    handles = [layer.self_attn.o_proj.register_forward_pre_hook(keep) for layer in vlm.layers]
    logits(vlm, sample)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", TINY)
def test_ablation_equals_a_plain_hook(family: str) -> None:
    vlm, stored = model(family), reference(family)
    sample = samples(1)[0]
    assert stored.everywhere is not None
    gifts = stored.everywhere[stored.donor(sample.id, sample.image_id)]  # (layer, step, head, feature)
    n = len(vlm.encode(sample))
    untouched = logits(vlm, sample)
    for mode in ("zero", "mean", "resample"):
        for positions in ("last", "all"):
            where = slice(-1, None) if positions == "last" else slice(None)

            def change(
                heads: torch.Tensor, layer: int, head: int, mode: str = mode, positions: str = positions, where: slice = where
            ) -> None:
                if mode == "zero":
                    heads[0, where, head] = 0
                elif mode == "mean":
                    heads[0, where, head] = (stored.mean_last if positions == "last" else stored.mean_all)[layer, head]
                else:
                    gift = gifts[layer][:, head]
                    aligned = gift[torch.arange(n).sub(n - len(gift)).clamp(min=0)]
                    heads[0, where, head] = aligned[where]

            with hooked(vlm, change):
                expected = logits(vlm, sample)
            with ablate_heads(vlm, HEADS, mode, positions, stored):
                got = logits(vlm, sample)
            assert torch.equal(got, expected), (mode, positions)
            assert float((got - untouched).abs().max()) > 1e-3, (mode, positions)
    assert torch.equal(logits(vlm, sample), untouched)


@pytest.mark.parametrize("family", TINY)
def test_references_are_what_heads_give(family: str) -> None:
    vlm, stored, donors = model(family), reference(family), samples(4, seed=9)
    assert stored.everywhere is not None
    given = [torch.stack(outputs_of_heads(vlm, donor)) for donor in donors]
    for kept, expected in zip(stored.everywhere, given, strict=True):
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(stored.mean_last, torch.stack([one[:, -1] for one in given]).mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(stored.mean_all, torch.cat(given, dim=1).mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", TINY)
def test_zero_everywhere_equals_a_projection_without_the_heads_columns(family: str) -> None:
    vlm, bench = tiny_vlm(family), samples(3)
    with ablate_heads(vlm, HEADS, positions="all"):
        ablated = interp.trace(vlm, bench, batch_size=3, max_new_tokens=6, progress=False)
    with torch.no_grad():
        for layer, head in HEADS:
            attention = vlm.layers[layer].self_attn
            attention.o_proj.weight[:, head * attention.head_dim : (head + 1) * attention.head_dim] = 0
    cut = interp.trace(vlm, bench, batch_size=3, max_new_tokens=6, progress=False)
    assert ablated["prediction"].values.tolist() == cut["prediction"].values.tolist()
    np.testing.assert_allclose(ablated["attention"], cut["attention"], atol=2e-5)
    np.testing.assert_allclose(ablated["reference_logprob"], cut["reference_logprob"], atol=1e-4)
    assert "L1H2 L2H0 L2H3 zero at all" in ablated.attrs["edits"] and "edits" not in cut.attrs


@pytest.mark.parametrize("positions", ["last", "generated", "all", slice(-4, None)])
@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_batches_and_padding_do_not_matter(mode: Any, positions: Any) -> None:
    vlm, bench = model("qwen2_5_vl"), samples(3)
    plain = interp.trace(vlm, bench, batch_size=3, max_new_tokens=4, progress=False)
    with ablate_heads(vlm, HEADS, mode, positions, reference("qwen2_5_vl")):
        found = [interp.trace(vlm, bench, batch_size=size, max_new_tokens=4, progress=False) for size in (1, 3)]
    np.testing.assert_allclose(found[0]["reference_logprob"], found[1]["reference_logprob"], atol=1e-4)
    assert found[0]["prediction"].values.tolist() == found[1]["prediction"].values.tolist()
    assert (np.abs(found[0]["reference_logprob"] - plain["reference_logprob"]) > 1e-3).all()


def test_positions_reach_as_far_as_they_say() -> None:
    """The last prompt position decides the first word; only `generated` and `all` touch what follows, and only `all` what came before."""
    vlm, bench = model("llava"), samples(2)
    runs = {}
    for positions in ("last", "generated", "all", slice(0, 1)):
        with ablate_heads(vlm, HEADS, positions=positions):
            runs[str(positions)] = interp.trace(vlm, bench, queries="answer", max_new_tokens=4, residual=True, progress=False)
    plain = interp.trace(vlm, bench, queries="answer", max_new_tokens=4, residual=True, progress=False)
    np.testing.assert_array_equal(runs["last"]["residual"], runs["generated"]["residual"])
    assert not np.allclose(runs["last"]["residual"], plain["residual"])
    np.testing.assert_array_equal(runs["last"]["answer_ids"][:, 0], runs["generated"]["answer_ids"][:, 0])
    # rows of the first ablated layer come before its edit, so before any position but the last nothing has changed there
    for one in ("last", "generated"):
        np.testing.assert_array_equal(runs[one]["attention"], plain["attention"].where(plain["layer"] <= 1, runs[one]["attention"]))
    assert not np.allclose(runs["all"]["attention"].isel(layer=2), runs["last"]["attention"].isel(layer=2))
    same = runs["last"]["answer_ids"].values[:, :2] == runs["generated"]["answer_ids"].values[:, :2]
    both = runs["last"]["reference_logprob"].values - runs["generated"]["reference_logprob"].values
    assert same[:, 0].all() and (np.abs(both) > 1e-6).all(), "answer tokens are ablated by `generated` alone"


def test_generation_and_evaluation_run_under_it(tmp_path: Path) -> None:
    vlm, bench = model("llava"), samples(4)

    def change(heads: torch.Tensor, layer: int, head: int) -> None:
        heads[:, :, head] = 0

    with hooked(vlm, change):
        expected = vlm.generate(bench, max_new_tokens=5)
    profile = interp.profile_layers(interp.trace(vlm, samples(6, seed=5), answers=False, progress=False))
    with ablate_heads(vlm, ["L1H2"], positions="all"), ablate_heads(vlm, ["L2H0", "l2h3"], positions="all"):
        assert vlm.generate(bench, max_new_tokens=5) == expected
        answers = interp.evaluate(vlm, bench, ["base", "vea"], profile, max_new_tokens=5, store=tmp_path / "a.zarr", progress=False)
    assert answers["prediction"].sel({"method": "base"}).values.tolist() == expected
    assert answers.attrs["edits"] == "heads L1H2 zero at all; heads L2H0 L2H3 zero at all"
    assert vlm.generate(bench, max_new_tokens=5) != expected
    with pytest.raises(InterpError, match="edits"):
        interp.evaluate(vlm, bench, ["base", "vea"], profile, max_new_tokens=5, store=tmp_path / "a.zarr", progress=False)


def test_the_context_ends_and_an_inner_one_counts() -> None:
    vlm, sample = model("llava"), samples(1)[0]
    plain = vlm.generate(sample)
    with pytest.raises(ZeroDivisionError), ablate_heads(vlm, [(0, 0)]):
        raise ZeroDivisionError
    assert vlm.edits == () and vlm.generate(sample) == plain

    with ablate_heads(vlm, [(1, 1)], "mean", "last", reference("llava")):
        mean = logits(vlm, sample)
        with ablate_heads(vlm, [(1, 1)]):
            zero = logits(vlm, sample)
    with ablate_heads(vlm, [(1, 1)]):
        assert torch.equal(logits(vlm, sample), zero)
    assert not torch.allclose(mean, zero)
    with ablate_heads(vlm, []):
        assert vlm.edits == ()


def test_what_runs_the_plain_model_refuses_an_edited_one() -> None:
    vlm, bench = model("llava"), samples(2)
    with ablate_heads(vlm, [(1, 1)]):
        for call in (head_sweep, knockout, attribute, lens, token_features, sinks):
            with pytest.raises(InterpError, match="runs the model as it is, but this one is edited .heads L1H1 zero at last"):
                call(vlm, bench)


@pytest.mark.parametrize(
    ("heads", "how", "said"),
    [
        (["L9H0"], {}, "Head L9H0 does not exist in 'tiny/llava'; it has layers 0 to 3 and heads 0 to 3"),
        (["3.7"], {}, "Head '3.7' is not understood; write it as L3H7"),
        ([(0, 0)], {"mode": "noise"}, "Ablation mode 'noise' is unknown"),
        ([(0, 0)], {"positions": "first"}, "Ablation positions 'first' is unknown"),
        ([(0, 0)], {"mode": "mean"}, "needs a reference set; pass reference="),
    ],
)
def test_bad_input_gets_one_sentence(heads: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InterpError, match=said), ablate_heads(model("llava"), heads, **how):
        pass


def test_references_of_other_models_or_without_positions_are_refused() -> None:
    short = head_reference(model("llava"), samples(3, seed=9), name="short")
    with (
        pytest.raises(InterpError, match="at the last prompt token only"),
        ablate_heads(model("llava"), [(0, 0)], "resample", "all", short),
    ):
        pass
    with (
        pytest.raises(InterpError, match="Head reference 'short' is of model"),
        ablate_heads(tiny_vlm("gemma3"), [(0, 0)], "mean", "last", short),
    ):
        pass
