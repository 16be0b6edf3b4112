"""Circuits: TransformerLens on shared weights, shares that add up to the logit, and the logit lens."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score

import interp
from interp.circuits import attribute, bridge, contributions, lens, write_by_part, write_grounding
from interp.errors import BenchmarkError, InterpError, ModelError
from interp.testing import TINY, samples, tiny_vlm
from interp.vlm import VLM

BENCH = samples(3, n_images=2)


@functools.cache
def model(name: str) -> VLM:
    return tiny_vlm(name)


@functools.cache
def bridged(name: str) -> Any:
    return bridge(model(name))


@functools.cache
def attributed(name: str) -> xr.Dataset:
    return attribute(model(name), BENCH, batch_size=2, max_new_tokens=4)


def inputs_of(vlm: VLM, sample: interp.Sample) -> dict[str, torch.Tensor]:
    return vlm.batch([vlm.encode(sample)])


@torch.no_grad()
def logits_of(vlm: VLM, inputs: dict[str, torch.Tensor], implementation: str = "sdpa") -> torch.Tensor:
    vlm.hf_model.set_attn_implementation({"text_config": implementation})
    try:
        return vlm.hf_model(**inputs, use_cache=False).logits
    finally:
        vlm.hf_model.set_attn_implementation({"text_config": "sdpa"})


def state(vlm: VLM) -> tuple[Any, ...]:
    """What a bridge could change about a model."""
    text = vlm.hf_model.config.get_text_config()
    names = [name for name, _ in vlm.hf_model.named_parameters()]
    kinds = [type(module) for module in vlm.hf_model.modules()]
    return text._attn_implementation, vlm.hf_model.config._attn_implementation, text.output_attentions, names, kinds


@pytest.mark.parametrize("name", TINY)
def test_a_bridge_leaves_the_model_alone(name: str) -> None:
    vlm, inputs = model(name), inputs_of(model(name), BENCH[0])
    before, logits, level = state(vlm), logits_of(vlm, inputs), logging.getLogger("transformers").level
    twin = bridge(vlm)
    others = dict(inputs)
    with torch.no_grad():
        seen = twin(others.pop("input_ids"), **others)
    assert state(vlm) == before
    assert torch.equal(logits_of(vlm, inputs), logits)
    assert logging.getLogger("transformers").level == level
    tensors = {tensor.data_ptr() for tensor in vlm.hf_model.state_dict().values()}
    new = [tensor for tensor in twin.original_model.state_dict().values() if tensor.data_ptr() not in tensors]
    assert sum(tensor.numel() for tensor in new) <= logits.shape[-1], "more than an output bias of zeros is new"
    assert torch.equal(seen, logits_of(vlm, inputs, "eager")), "it is another model"


def test_importing_circuits_loads_no_engine() -> None:
    code = "import sys, interp.circuits; sys.exit(' '.join({'torch', 'transformer_lens'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_log_level_of_transformers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens changes it when it is imported, so what does that is imported once more."""
    for name in [name for name in sys.modules if name.startswith("transformer_lens.model_bridge.sources")]:
        monkeypatch.delitem(sys.modules, name)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    bridge(model("llava"))
    assert logger.level == logging.WARNING


def test_without_transformer_lens_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge.sources", None)
    with pytest.raises(ModelError, match="pip install 'transformer-lens"):
        bridge(model("llava"))


@pytest.mark.parametrize("name", TINY)
def test_patterns_are_the_rows_of_a_trace(name: str) -> None:
    traced = interp.trace(model(name), BENCH[:1], answers=False)["attention"][0]
    others = inputs_of(model(name), BENCH[0])
    patterns: dict[str, torch.Tensor] = {}
    hooks = [(f"blocks.{layer}.attn.hook_pattern", lambda value, hook: patterns.update({hook.name: value[0, :, -1]})) for layer in range(4)]
    with torch.no_grad():
        bridged(name).run_with_hooks(others.pop("input_ids"), fwd_hooks=hooks, **others)
    for layer in range(4):
        row = patterns[f"blocks.{layer}.attn.hook_pattern"].numpy()
        np.testing.assert_allclose(row, traced[layer].fillna(0), atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_a_head_put_out_in_the_bridge_is_out_in_the_model(name: str) -> None:
    vlm, layer, head = model(name), 1, 2
    others = inputs_of(vlm, BENCH[0])
    attention = vlm.layers[layer].self_attn
    part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)

    def silenced(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        changed = args[0].clone()
        changed[..., part] = 0
        return (changed,)

    def zeroed(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, :, head] = 0
        return value

    twin, plain = bridged(name), logits_of(vlm, others, "eager")
    handle = attention.o_proj.register_forward_pre_hook(silenced)
    try:
        expected = logits_of(vlm, others, "eager")
    finally:
        handle.remove()
    with torch.no_grad():
        found = twin.run_with_hooks(others.pop("input_ids"), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zeroed)], **others)
    assert torch.equal(found, expected)
    assert (expected - plain).abs().max() > 1e-2


class Oracle:
    """Shares of heads by plain hooks on the model: what a head's slice of the output projection becomes when every norm is held fixed
    at the ratio of what left it to what entered it.
    """

    def __init__(self, vlm: VLM, inputs: dict[str, torch.Tensor], position: int) -> None:
        self.vlm, self.position = vlm, position
        text = vlm.hf_model.model.language_model
        self.seen: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        sandwiched = hasattr(text.layers[0], "pre_feedforward_layernorm")
        modules = [text.norm]
        for layer in text.layers:
            modules += [layer.self_attn.o_proj, layer.self_attn.v_proj]
            modules += [layer.post_attention_layernorm] if sandwiched else []
        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(self._keep).remove)
            vlm.hf_model.set_attn_implementation({"text_config": "eager"})
            stack.callback(vlm.hf_model.set_attn_implementation, {"text_config": "sdpa"})
            with torch.no_grad():
                self.weights = vlm.hf_model(**inputs, output_attentions=True, use_cache=False).attentions
        self.final = self._ratio(text.norm)
        self.after = [self._ratio(layer.post_attention_layernorm) if sandwiched else 1.0 for layer in text.layers]

    def _keep(self, module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.seen[module] = (args[0][0], output[0])

    def _ratio(self, module: Any) -> torch.Tensor:
        entered, left = self.seen[module]
        return left[self.position] / entered[self.position]

    @torch.no_grad()
    def _logit(self, layer: int, head: int, z: torch.Tensor, token: int, foil: int) -> float:
        attention = self.vlm.layers[layer].self_attn
        only = torch.zeros_like(self.seen[attention.o_proj][0][self.position])
        only[head * attention.head_dim : (head + 1) * attention.head_dim] = z
        written = attention.o_proj(only) - attention.o_proj(torch.zeros_like(only))
        logits = self.vlm.hf_model.lm_head(written * self.after[layer] * self.final)
        return float(logits[token] - logits[foil])

    def head(self, layer: int, head: int, token: int, foil: int) -> float:
        attention = self.vlm.layers[layer].self_attn
        z = self.seen[attention.o_proj][0][self.position].reshape(-1, attention.head_dim)[head]
        return self._logit(layer, head, z, token, foil)

    def source(self, layer: int, head: int, source: int, token: int, foil: int) -> float:
        attention = self.vlm.layers[layer].self_attn
        values = self.seen[attention.v_proj][1][source].reshape(-1, attention.head_dim)
        value = values[head // attention.num_key_value_groups]
        return self._logit(layer, head, self.weights[layer][0, head, self.position, source] * value, token, foil)


@pytest.mark.parametrize("name", TINY)
def test_shares_add_up_and_are_those_of_plain_hooks(name: str) -> None:
    vlm, random = model(name), np.random.default_rng(1)
    for sample in BENCH[:2]:
        inputs = inputs_of(vlm, sample)
        logits = logits_of(vlm, inputs)[0].double()
        for position in (-1, int(random.integers(1, len(logits) - 1))):
            token, foil = (int(k) for k in random.choice(logits.shape[-1], 2, replace=False))
            found = contributions(bridged(name), inputs, token, foil, position)
            assert found.total == pytest.approx(found.logit, abs=1e-5)
            assert found.logit == pytest.approx(float(logits[position, token] - logits[position, foil]), abs=5e-5)
            np.testing.assert_allclose(found.write.sum(-1), found.head, atol=1e-5)
            np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
            oracle = Oracle(vlm, inputs, position)
            expected = [[oracle.head(layer, head, token, foil) for head in range(vlm.n_heads)] for layer in range(vlm.n_layers)]
            np.testing.assert_allclose(found.head, expected, atol=1e-5)
            for layer in range(vlm.n_layers):
                head = int(random.integers(vlm.n_heads))
                source = int(found.attention[layer, head].argmax())
                assert found.write[layer, head, source] == pytest.approx(oracle.source(layer, head, source, token, foil), abs=1e-5)


def test_vision_features_between_layers_are_a_share() -> None:
    vlm = model("qwen3_vl")
    encoding = vlm.encode(BENCH[0])
    at = int(np.flatnonzero(encoding.image_index == 0)[3])
    found = contributions(bridged("qwen3_vl"), vlm.batch([encoding]), 5, position=at)
    assert np.abs(found.between[:2]).min() > 1e-3
    assert found.between[2:].tolist() == [0, 0]
    assert found.total == pytest.approx(found.logit, abs=1e-5)


def test_half_precision_adds_up_but_for_its_rounding() -> None:
    for name in ("qwen2_5_vl", "gemma3"):
        vlm = tiny_vlm(name, dtype=torch.bfloat16)
        found = attribute(vlm, BENCH[:1], max_new_tokens=1, sources=False)
        assert 1e-6 < abs(float(found["residue"][0])) < 0.05 * float(np.abs(found["direct"]).sum() + np.abs(found["mlp"]).sum())


def test_biases_have_shares() -> None:
    vlm = tiny_vlm("llava", attention_bias=True)
    assert vlm.layers[0].self_attn.o_proj.bias is not None
    bias = torch.linspace(-1, 1, vlm.hf_model.lm_head.out_features)
    vlm.hf_model.lm_head.bias = torch.nn.Parameter(bias)
    found = contributions(bridge(vlm), inputs_of(vlm, BENCH[0]), 7, 70)
    assert np.abs(found.attention_bias).min() > 1e-4
    assert found.unembed_bias == pytest.approx(float(bias[7] - bias[70]))
    assert found.total == pytest.approx(found.logit, abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_an_attribution_is_labelled_as_a_trace(name: str) -> None:
    found = attributed(name)
    traced = interp.trace(model(name), BENCH, batch_size=1, max_new_tokens=4)
    for coordinate in traced.coords:
        xr.testing.assert_identical(found[coordinate].variable, traced[coordinate].variable)
    assert found["prediction"].values.tolist() == traced["prediction"].values.tolist()
    parts = ("direct", "mlp", "attention_bias", "between")
    total = sum(found[part].sum([dim for dim in found[part].dims if dim != "sample"]) for part in parts)
    np.testing.assert_allclose(total + found["embed"] + found["unembed_bias"], found["logit_difference"], atol=1e-5)
    np.testing.assert_allclose(found["write"].sum("token") + found["write_answer"], found["direct"], atol=1e-5)
    np.testing.assert_array_equal(found["write"].isnull(), found["attention"].isnull())
    first = found["foil_position"] == 0
    assert bool(first.all()), "the attribution reads the last prompt position, as the trace does"
    np.testing.assert_allclose(found["attention"], traced["attention"], atol=2e-5)
    for batch, sample in enumerate(BENCH):
        logits = logits_of(model(name), inputs_of(model(name), sample))[0, -1]
        difference = logits[int(found["reference_ids"][batch, 0])] - logits[int(found["foil_ids"][batch, 0])]
        assert float(found["logit_difference"][batch]) == pytest.approx(float(difference), abs=5e-5)


def shared_beginnings(vlm: VLM) -> list[interp.Sample]:
    """Two samples: of one, reference and answer begin alike; of the other, the answer is cut off before they part."""
    said = vlm.generate(BENCH[0], max_new_tokens=3).split()
    other = "seven" if said[1] != "seven" else "eight"
    return [replace(BENCH[0], references=(f"{said[0]} {other}",)), replace(BENCH[0], id="cut", references=(" ".join([*said, other]),))]


def test_where_reference_and_foil_begin_alike_the_token_where_they_part_is_read() -> None:
    vlm = model("llava")
    bench = shared_beginnings(vlm)
    found, read = attribute(vlm, bench, max_new_tokens=3), lens(vlm, bench, max_new_tokens=3)
    assert found["foil_position"].values.tolist() == [1, -1]
    reference, foil = (found[f"{name}_ids"].values[0].tolist() for name in ("reference", "foil"))
    inputs = inputs_of(vlm, bench[0])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([reference[:1]])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = logits_of(vlm, inputs)[0, -1]
    expected = float(logits[reference[1]] - logits[foil[1]])
    assert float(found["logit_difference"][0]) == pytest.approx(expected, abs=5e-5)
    assert float(read["logit_difference"][0, -1]) == pytest.approx(expected, abs=5e-5)
    assert float(abs(found["write_answer"][0]).max()) > 1e-4
    np.testing.assert_allclose(found["write"][0].sum("token") + found["write_answer"][0], found["direct"][0], atol=1e-5)
    assert bool((found["attention"][0].sum("token") < 1 - 1e-4).any()), "some attention is on the answer's own token"
    assert found.attrs["n_without_foil"] == 1
    assert bool(found["direct"][1].isnull().all() and found["write"][1].isnull().all() and found["logit_difference"][1].isnull())
    assert bool(found["attention"][1].notnull().all() and read["foil_rank"][1].isnull().all())
    assert bool(read["reference_rank"][1].notnull().all())
    parts = write_by_part(found)
    np.testing.assert_allclose(parts[0].sum("part"), found["direct"][0], atol=1e-5)
    assert bool(parts[1].isnull().all())


def test_a_window_is_counted_from_the_position_that_is_read() -> None:
    vlm = model("gemma3")
    bench = shared_beginnings(vlm)[:1]
    found, window = attribute(vlm, bench, max_new_tokens=3), vlm.hf_model.config.get_text_config().sliding_window
    assert found["foil_position"].values.tolist() == [1]
    kept = found["attention"][0, :, 0].notnull().sum("token").values.tolist()
    whole = len(vlm.encode(bench[0]))
    assert kept == [window - 1, whole, window - 1, whole], "one place of the window is the answer's token"
    np.testing.assert_array_equal(found["write"].isnull(), found["attention"].isnull())


@pytest.mark.parametrize("name", ["llava_next", "gemma3"])
def test_write_grounding_is_that_of_scikit_learn(name: str) -> None:
    found = attributed(name)
    pictures: dict[str, Callable[[Any], Any]] = {
        "positive": lambda write: np.maximum(write, 0),
        "negative": lambda write: np.maximum(-write, 0),
        "magnitude": np.abs,
    }
    for sign, of in pictures.items():
        grounded = write_grounding(found, sign)  # type: ignore[arg-type]
        for sample in range(len(BENCH)):
            coverage = found["coverage"].values[sample]
            for layer, head in ((0, 0), (1, 3), (3, 2)):
                write = found["write"].values[sample, layer, head]
                there = ~np.isnan(coverage) & ~np.isnan(write)
                got = float(grounded["write"][sample, layer, head])
                if len(set(coverage[there] > 0)) < 2:
                    assert np.isnan(got)
                else:
                    assert got == pytest.approx(roc_auc_score(coverage[there] > 0, of(write[there])))
    looked = interp.analysis.grounding(found, level="head")["auroc"]
    np.testing.assert_allclose(write_grounding(found)["look"], looked)


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3"])
def test_parts_are_sums_over_their_tokens(name: str) -> None:
    found = attributed(name)
    marked = found["coverage"].isnull() | (np.arange(len(BENCH)) != 2)[:, None]
    found = found.assign(coverage=found["coverage"].where(marked, 0))  # the last sample has no evidence
    parts = write_by_part(found)
    assert parts["part"].values.tolist() == ["evidence", "image", "question", "other", "answer"]
    np.testing.assert_allclose(parts[:2].sum("part"), found["direct"][:2], atol=1e-5)
    for sample, prompt in enumerate(BENCH):
        encoding = model(name).encode(prompt)
        write = np.nan_to_num(found["write"].values[sample, :, :, : len(encoding)])
        evidence = found["coverage"].values[sample, : len(encoding)] > 0
        got = parts[sample]
        np.testing.assert_allclose(got.sel(part="question"), write[..., encoding.question_tokens].sum(-1), atol=1e-6)
        if evidence.any():
            np.testing.assert_allclose(got.sel(part="evidence"), write[..., evidence].sum(-1), atol=1e-6)
            rest = (encoding.segment == 1) & ~evidence
            np.testing.assert_allclose(got.sel(part="image"), write[..., rest].sum(-1), atol=1e-6)
        else:
            assert sample == 2
            assert bool(got.sel(part=["evidence", "image"]).isnull().all())


@pytest.mark.parametrize("name", TINY)
def test_the_lens_is_the_model_after_the_last_layer(name: str) -> None:
    vlm = model(name)
    read = lens(vlm, BENCH, max_new_tokens=2)
    with torch.no_grad():
        plain = [vlm.hf_model(**inputs_of(vlm, sample), output_hidden_states=True) for sample in BENCH]
    for k, outputs in enumerate(plain):
        reference, foil = int(read["reference_ids"][k, 0]), int(read["foil_ids"][k, 0])
        states = [hidden[0, -1] for hidden in outputs.hidden_states[1:-1]]
        with torch.no_grad():
            logits = [vlm.hf_model.lm_head(vlm.hf_model.model.language_model.norm(s)) for s in states] + [outputs.logits[0, -1]]
        for layer, values in enumerate(logits):
            order = values.argsort(descending=True).tolist()
            assert float(read["reference_token_logprob"][k, layer]) == pytest.approx(float(values.log_softmax(-1)[reference]), abs=1e-4)
            assert float(read["foil_token_logprob"][k, layer]) == pytest.approx(float(values.log_softmax(-1)[foil]), abs=1e-4)
            assert float(read["logit_difference"][k, layer]) == pytest.approx(float(values[reference] - values[foil]), abs=1e-4)
            assert read["reference_rank"][k, layer] == order.index(reference)
            assert read["foil_rank"][k, layer] == order.index(foil)
        assert read["foil_rank"][k, -1] == 0, "the foil of a wrong answer is what the model says"


def test_the_last_entry_of_the_lens_is_the_model_exactly() -> None:
    vlm = model("gemma3")
    read = lens(vlm, BENCH[:1], max_new_tokens=2)
    with torch.no_grad():
        logits = vlm.hf_model(**inputs_of(vlm, BENCH[0]), logits_to_keep=1, use_cache=False).logits[0, -1]
    reference, foil = int(read["reference_ids"][0, 0]), int(read["foil_ids"][0, 0])
    assert float(read["logit_difference"][0, -1]) == float(logits[reference] - logits[foil])


def test_a_planted_head_is_found() -> None:
    from interp.testing import carrying_head

    vlm, (layer, head), bench = carrying_head(layer=2, head=1)
    found = attribute(vlm, bench, max_new_tokens=3)
    assert found["exact_match"].values.tolist() == [1.0] * len(bench)
    ranked = found["direct"].stack(place=("layer", "head"))
    assert ranked["place"].values[ranked.argmax("place").values].tolist() == [(layer, head)] * len(bench)
    mine = found["direct"].sel(layer=layer, head=head)
    assert bool((mine > 0.5 * found["logit_difference"]).all()), "it carries most of the answer"
    carried = write_by_part(found).sel(layer=layer, head=head)
    assert bool((carried.sel(part="evidence") > 0.9 * mine).all()), "and from the evidence"
    grounded = write_grounding(found)["write"].sel(layer=layer, head=head)
    assert bool((grounded == 1).all())
    read = lens(vlm, bench, max_new_tokens=3)["reference_rank"]
    assert bool((read.sel(layer=slice(layer, None)) == 0).all()), "the answer is there from its layer on"
    assert float(read.sel(layer=layer - 1).mean()) > 0


def test_bad_input_is_one_sentence() -> None:
    vlm = model("llava")
    with pytest.raises(BenchmarkError, match="no samples"):
        attribute(vlm, [])
    with pytest.raises(BenchmarkError, match="more than once"):
        lens(vlm, [BENCH[0], BENCH[0]])
    with pytest.raises(InterpError, match="batch_size"):
        lens(vlm, BENCH, batch_size=0)
    with pytest.raises(InterpError, match="Position 5000"):
        contributions(bridged("llava"), inputs_of(vlm, BENCH[0]), 1, position=5000)
    with pytest.raises(InterpError, match="give one prompt"):
        contributions(bridged("llava"), vlm.batch([vlm.encode(sample) for sample in BENCH]), 1)
    with pytest.raises(InterpError, match="sign='both'"):
        write_grounding(attributed("llava"), "both")  # type: ignore[arg-type]
    with pytest.raises(InterpError, match="sources=True"):
        write_by_part(attribute(vlm, BENCH[:1], max_new_tokens=1, sources=False))


def test_a_decoder_of_other_parts_is_refused() -> None:
    vlm = tiny_vlm("llava")
    vlm.layers[0].mlp.gate = vlm.layers[0].mlp.gate_proj
    del vlm.layers[0].mlp.gate_proj
    with pytest.raises(ModelError, match="has no 'gate_proj'"):
        bridge(vlm)
    vlm = tiny_vlm("llava")
    vlm.layers[0].input_layernorm.register_forward_hook(lambda module, args, output: 3 * output)
    with pytest.raises(ModelError, match="does not scale by its weight"):
        bridge(vlm)


def test_shares_that_do_not_add_up_are_refused() -> None:
    vlm = tiny_vlm("llava")
    vlm.layers[1].register_forward_hook(lambda module, args, output: 1.2 * output)
    with pytest.raises(ModelError, match="adds up to .*, not to the logit"):
        attribute(vlm, BENCH[:1], max_new_tokens=1)
