"""What methods read from attention, or change in it, against eager attention and plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import interp
from interp.benchmarks.sample import Sample
from interp.encoding import SEGMENTS, Encoding, answer_ids
from interp.errors import BenchmarkError, InterpError
from interp.interventions import ablate_heads
from interp.methods import attribution_maps, evaluate
from interp.methods.gradcam import gradcam
from interp.methods.own_tokens import middle_layer, reaching_layers
from interp.methods.redistribution import Rule, redistributed
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM

Floats = NDArray[np.float64]

# the middle layer of this model's four is a sliding one, and its pictures see themselves
FAMILIES = ["llava", "gemma3"]


@cache
def model(family: str) -> VLM:
    return tiny_vlm(family, num_hidden_layers=5)


@cache
def questions() -> list[Sample]:
    return [*samples(2), *samples(1, seed=3, n_images=2)]


@contextmanager
def switched(vlm: VLM, name: str) -> Iterator[None]:
    before = vlm.hf_model.config.get_text_config()._attn_implementation
    vlm.hf_model.set_attn_implementation({"text_config": name})
    try:
        yield
    finally:
        vlm.hf_model.set_attn_implementation({"text_config": before})


@cache
def eager(family: str, k: int) -> tuple[Encoding, list[Floats], list[Floats], list[Floats], float]:
    """Of one prompt: attention per layer, its gradients of the best token's log-probability and logit, and that probability."""
    vlm = model(family)
    encoding = vlm.encode(questions()[k])
    with switched(vlm, "eager"):
        outputs = vlm.hf_model(**vlm.batch([encoding]), output_attentions=True, use_cache=False)
    logits = outputs.logits[0, -1]
    by_logit = torch.autograd.grad(logits.max(), outputs.attentions, retain_graph=True)
    by_logprob = torch.autograd.grad(logits.log_softmax(-1).max(), outputs.attentions)
    several = (outputs.attentions, by_logprob, by_logit)
    attention, first, second = ([layer.detach()[0].double().numpy() for layer in each] for each in several)
    return encoding, attention, first, second, float(logits.detach().softmax(-1).max())


# --------------------------------------------------------------------------------------------------------- redistribution


def by_loops(row: Floats, visual: NDArray[np.bool_], sink: NDArray[np.bool_], rule: Rule) -> Floats:
    mass = sum(w for w, v in zip(row, visual, strict=True) if v)
    on_sinks = sum(w for w, v, s in zip(row, visual, sink, strict=True) if v and s)
    lost = sum(w for w, s in zip(row, sink, strict=True) if s)
    if mass < rule.image_mass or on_sinks > rule.sink_share * mass or lost == 0 or mass == on_sinks:
        return row
    freed = (1 - rule.kept) * lost
    rest = mass - on_sinks
    return np.array(
        [rule.kept * w if s else (w + freed * w / rest if v else w) for w, v, s in zip(row, visual, sink, strict=True)], dtype=np.float64
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.6), st.floats(0.1, 0.9))
def test_redistribution_against_loops(seed: int, image_mass: float, kept: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(9, 0.4), size=6)
    visual, sink = rng.random((2, 9)) < [[0.6], [0.3]]
    rule = Rule(image_mass=image_mass, kept=kept)
    got, chosen = redistributed(torch.from_numpy(rows), torch.from_numpy(visual), torch.from_numpy(sink), rule)
    expected = np.array([by_loops(row, visual, sink, rule) for row in rows])
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(got.sum(-1), 1.0, atol=1e-9)
    changed = [not np.array_equal(a, b) for a, b in zip(expected, rows, strict=True)]
    assert chosen.tolist() == changed


def test_redistribution_by_hand() -> None:
    """Text 0.1, sink in the text 0.4, picture 0.3 and 0.1, sink in the picture 0.1."""
    weights = torch.tensor([0.1, 0.4, 0.3, 0.1, 0.1])
    visual, sink = torch.tensor([0, 0, 1, 1, 1]).bool(), torch.tensor([0, 1, 0, 0, 1]).bool()
    got, chosen = redistributed(weights, visual, sink)
    assert bool(chosen)
    assert got.tolist() == pytest.approx([0.1, 0.24, 0.3 + 0.2 * 0.75, 0.1 + 0.2 * 0.25, 0.06])
    for picture in ([0.1, 0.0, 0.08], [0.1, 0.0, 0.3]):  # too little on the picture; most of that on its sink
        row = torch.tensor([1 - 0.3 - sum(picture), 0.3, *picture])
        same, chosen = redistributed(row, visual, sink)
        assert not bool(chosen) and torch.equal(same, row)


def oracle_attention(visual: NDArray[np.bool_], sinks: dict[int, NDArray[np.bool_]], after: int, n_layers: int) -> Any:
    """Eager attention of one prompt (batch of one), with every head and row behind the picture redistributed by a plain loop."""

    def attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        logits = query @ key.transpose(2, 3) * scaling
        weights = (logits if mask is None else logits + mask[..., : key.shape[2]]).softmax(-1)
        layer, steps, keys = module.layer_idx, query.shape[2], key.shape[2]
        if 2 <= layer < n_layers - 1:
            total = keys if steps > 1 else attend.length  # type: ignore[attr-defined]
            known = [np.pad(one, (0, total - len(one)))[total - keys :] for one in (visual, sinks[layer])]
            for head in range(weights.shape[1]):
                for step in range(steps):
                    if total - steps + step >= after:
                        row = weights[0, head, step].double().numpy()
                        given = by_loops(row, known[0], known[1], Rule())
                        weights[0, head, step] = torch.from_numpy(given)
                        attend.changed += given is not row and step == steps - 1  # type: ignore[attr-defined]
        return (weights @ value).transpose(1, 2).contiguous(), None

    return attend


def forced_logprob(vlm: VLM, encoding: Encoding, reference: str) -> float:
    """Of a reference and the end token, from one pass over prompt and answer together."""
    ids = [*answer_ids(vlm.processor, encoding.text, reference), vlm.end_tokens[0]]
    inputs, n = vlm.batch([encoding]), len(encoding)
    more = {name: torch.zeros(1, len(ids), dtype=torch.long) for name in inputs if inputs[name].shape == inputs["input_ids"].shape}
    more |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    whole = {name: torch.cat([value, more[name]], 1) if name in more else value for name, value in inputs.items()}
    logprobs = vlm.hf_model(**whole).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[n - 1 + k, token]) for k, token in enumerate(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_sink_redistribution_is_that_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in a padded batch, against one by one; a low threshold makes a good part of the tokens sinks."""
    vlm, bench = model(family), questions()
    threshold = 2.5
    monkeypatch.setattr("interp.methods.redistribution.THRESHOLD", threshold)
    found = evaluate(vlm, bench, ["base", "sink-redistribution"], batch_size=3, max_new_tokens=2)
    changed = 0
    for k, sample in enumerate(bench):
        encoding = vlm.encode(sample)
        visual = encoding.segment == SEGMENTS.index("image")
        sinks: dict[int, NDArray[np.bool_]] = {}

        def find(module: Any, args: Any, kwargs: Any, sinks: Any = sinks, n: int = len(encoding)) -> None:
            entering = (args[0] if args else kwargs["hidden_states"])[0].detach().double().numpy()
            if len(entering) >= n:  # the prompt's tokens alone may be sinks
                sinks[module.self_attn.layer_idx] = (np.abs(entering).max(-1) / np.sqrt((entering**2).mean(-1)) > threshold)[:n]

        hooks = [layer.register_forward_pre_hook(find, with_kwargs=True) for layer in vlm.layers]
        attend = oracle_attention(visual, sinks, int(np.flatnonzero(visual)[-1]) + 1, vlm.n_layers)
        attend.changed = 0
        ALL_ATTENTION_FUNCTIONS.register("oracle", attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register("oracle", eager_mask)
        with switched(vlm, "oracle"), torch.no_grad():
            inputs = vlm.batch([encoding])
            probabilities = vlm.hf_model(**inputs).logits[0, -1].double().softmax(-1).numpy()
            share = attend.changed / ((vlm.n_layers - 3) * vlm.n_heads)
            best = max(forced_logprob(vlm, encoding, reference) for reference in sample.references)
            attend.length = len(encoding) + 1
            text = vlm.generate(sample, max_new_tokens=2)
        for hook in hooks:
            hook.remove()
        entropy = -float((probabilities * np.log(probabilities)).sum())
        one = found.isel(sample=k).sel({"method": "sink-redistribution"})
        first = interp.sinks(vlm, [sample], threshold=threshold)[0, 2].values
        np.testing.assert_array_equal(sinks[2], first, err_msg="before anything is moved")
        assert float(one["entropy"]) == pytest.approx(entropy, abs=1e-4)
        assert str(one["prediction"].item()) == text
        assert float(one["reference_logprob"]) == pytest.approx(best, abs=2e-4)
        changed += abs(entropy - float(found["entropy"].values[0, k])) > 1e-3
        assert float(one["redistributed_heads"]) == pytest.approx(share)
    assert changed >= 2 and (found["redistributed_heads"] > 0).any(), "the change shows"


def test_a_model_without_sinks_answers_as_base() -> None:
    """Bit by bit, also under an ablation, which applies to both."""
    vlm, bench = model("llava"), questions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.methods.redistribution.THRESHOLD", 1e9)
        vlm.hf_model.config.get_text_config().hidden_size, width = 10**9, vlm.hf_model.config.get_text_config().hidden_size
        try:
            plain = evaluate(vlm, bench, ["base", "sink-redistribution"], max_new_tokens=2)
            with ablate_heads(vlm, ["L1H1", "L2H0"]):
                edited = evaluate(vlm, bench[:1], ["base", "sink-redistribution"], max_new_tokens=2)
        finally:
            vlm.hf_model.config.get_text_config().hidden_size = width
    for answers in (plain, edited):
        assert (answers["redistributed_heads"] == 0).all()
        assert (answers["prediction"].values[0] == answers["prediction"].values[1]).all()
        np.testing.assert_allclose(answers["reference_logprob"].values[0], answers["reference_logprob"].values[1], atol=1e-6)
    assert edited["entropy"].values[1, 0] != plain["entropy"].values[1, 0]


# ---------------------------------------------------------------------------------------------------------------- GradCAM


@pytest.mark.parametrize("family", FAMILIES)
def test_gradcam_against_eager_attention(family: str) -> None:
    vlm, bench = model(family), questions()
    layer = middle_layer(vlm)
    wanted = [parameter.requires_grad for parameter in vlm.hf_model.parameters()]
    found, probability = gradcam(vlm, [vlm.encode(sample) for sample in bench], layer)
    assert [parameter.requires_grad for parameter in vlm.hf_model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in vlm.hf_model.parameters())
    for k, values in enumerate(found):
        encoding, attention, slope, _, best = eager(family, k)
        expected = np.mean([row * np.maximum(g, 0) for row, g in zip(attention[layer][:, -1], slope[layer][:, -1], strict=True)], axis=0)
        assert len(values) == len(encoding)
        np.testing.assert_allclose(values, expected, atol=2e-5 * max(1.0, expected.max()))
        assert expected.max() > 1e-3
        assert probability[k] == pytest.approx(best, abs=1e-5)
    with ablate_heads(vlm, ["L1H1"]), pytest.raises(InterpError, match="GradCAM runs the model as it is"):
        gradcam(vlm, [vlm.encode(bench[0])], layer)


def test_layers_that_reach_the_picture() -> None:
    vlm = model("gemma3")
    full = [k for k, kind in enumerate(vlm.layer_kinds) if kind == "full"]
    assert list(reaching_layers(vlm)) == full and 0 < len(full) < vlm.n_layers
    assert middle_layer(vlm) in full
    assert reaching_layers(model("llava")) == (0, 1, 2, 3, 4) and middle_layer(model("llava")) == 2


# ------------------------------------------------------------------------------------------------------------------- maps


@cache
def maps(family: str) -> xr.Dataset:
    vlm = model(family)
    profile = interp.profile_layers(interp.trace(vlm, samples(3, seed=9), answers=False), 0.4)
    return attribution_maps(vlm, questions(), profile=profile, batch_size=2, max_new_tokens=3)


def own(found: xr.Dataset, name: str, k: int, encoding: Encoding) -> Floats:
    return found["map"].sel({"method": name}).values[k][: len(encoding)].astype(np.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_against_matrices(family: str) -> None:
    found = maps(family)
    for k in range(len(questions())):
        encoding, attention, _, slope, _ = eager(family, k)
        n, seen = len(encoding), ~np.isnan(encoding.token_boxes[:, 0])
        product, relevance = np.eye(n), np.eye(n)
        for layer, gradient in zip(attention, slope, strict=True):
            mixed = layer.mean(0) + np.eye(n)
            product = mixed / mixed.sum(-1, keepdims=True) @ product
            relevance = relevance + np.maximum(layer * gradient, 0).mean(0) @ relevance
        relevant = (relevance - np.eye(n))[-1]
        for name, expected in {"rollout": product[-1], "gradient-relevance": relevant / relevant.sum()}.items():
            got = own(found, name, k, encoding)
            assert np.isnan(got[~seen]).all()
            np.testing.assert_allclose(got[seen], expected[seen], atol=2e-5, err_msg=name)
            assert expected[seen].max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_rows_against_a_trace(family: str) -> None:
    vlm, bench, found = model(family), questions(), maps(family)
    trace = interp.trace(vlm, bench, batch_size=2, max_new_tokens=3, queries="answer")
    profile = [int(layer) for layer in found.attrs["profile_layers"].strip("[]").split(",")]
    n = vlm.n_layers
    ranges = {"layers-0-100": range(n), "layers-0-50": range(n // 2), "layers-50-100": range(n // 2, n), "vea": profile}
    for k in range(len(bench)):
        one = trace.isel(sample=k)
        seen = ~np.isnan(one["token_box"].values[:, 0])
        for name, layers in ranges.items():
            rows = one["attention"].values[list(layers)].reshape(-1, one.sizes["token"])[:, seen]
            expected = [np.mean(column[~np.isnan(column)]) for column in rows.T]
            np.testing.assert_allclose(found["map"].sel({"method": name}).values[k][seen], expected, atol=1e-5, err_msg=name)
        said = one["attention_rows"].values[reaching_layers(vlm)[-1]]
        said = said[:, ~np.isnan(said).all((0, 2))][:, :, : len(seen)][:, :, seen]
        expected = said.mean((0, 1)) if said.size else np.full(seen.sum(), np.nan)
        np.testing.assert_allclose(found["map"].sel({"method": "var"}).values[k][seen], expected, atol=1e-5)
        layer = middle_layer(vlm)
        _, attention, slope, _, _ = eager(family, k)
        cam = (attention[layer][:, -1] * np.maximum(slope[layer][:, -1], 0)).mean(0)[seen[: attention[layer].shape[-1]]]
        np.testing.assert_allclose(found["map"].sel({"method": "agla"}).values[k][seen], cam, atol=2e-5 * max(1.0, cam.max()))


def test_maps_are_ranked_as_a_trace_is() -> None:
    found = maps("llava")
    scores = interp.analysis.auroc(found["map"], found["coverage"])
    assert scores.dims == ("method", "sample") and interp.analysis.ndcg(found["map"], found["coverage"]).dims == scores.dims
    counted = 0
    for m in range(found.sizes["method"]):
        for k in range(found.sizes["sample"]):
            labels, values = found["coverage"].values[k], found["map"].values[m, k]
            real = ~np.isnan(labels) & ~np.isnan(values)
            if len(set(labels[real] > 0)) == 2:
                assert float(scores[m, k]) == pytest.approx(roc_auc_score(labels[real] > 0, values[real]))
                counted += 1
    assert counted >= 16
    assert found["passes"].sel({"method": "rollout"}).values.tolist() == [1.0] * 3
    assert found["passes"].sel({"method": "gradient-relevance"}).values.tolist() == [3.0] * 3
    assert (found["seconds"] > 0).all()
    assert found.attrs["model"] == "tiny/llava" and "image_sha256" in found and found["map"].attrs["long_name"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["nope"]}, "Map 'nope' is unknown; use some of layers-0-100"),
        ({"names": ["var", "var"]}, "Map 'var' is asked for twice"),
        ({"names": []}, "No map is named"),
        ({"names": ["vea"]}, "Map 'vea' needs a layer profile"),
        ({"batch_size": 0}, "must be 1 or more"),
    ],
)
def test_maps_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        attribution_maps(model("llava"), questions()[:1], **options)


def test_benchmarks_and_profiles_that_maps_refuse() -> None:
    vlm, bench = model("llava"), questions()
    with pytest.raises(BenchmarkError, match="no samples"):
        attribution_maps(vlm, [])
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        attribution_maps(vlm, [bench[0], bench[0]])
    seen = interp.profile_layers(interp.trace(vlm, bench[:1], answers=False))
    with pytest.raises(InterpError, match="fitted on 1 of the images"):
        attribution_maps(vlm, bench, ["vea"], seen)
    found = attribution_maps(vlm, bench[:1], "vea", seen, allow_overlap=True)
    assert found["method"].values.tolist() == ["vea"] and found.attrs["allow_overlap"] == "true"
    assert attribution_maps(vlm, bench[:1], max_new_tokens=1)["method"].values.tolist()[:4] == [
        "layers-0-100",
        "layers-0-50",
        "layers-50-100",
        "var",
    ]
    with ablate_heads(vlm, ["L1H1"]), pytest.raises(InterpError, match="runs the model as it is"):
        attribution_maps(vlm, bench)
