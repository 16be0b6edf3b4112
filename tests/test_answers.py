"""Answers, their scores and their probabilities against plain transformers and hand-computed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import answers
from interp.encoding import answer_ids
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """A model that ends some answers early: the end token's row of the output matrix is made likely."""
    model = tiny_vlm(seed=1)
    with torch.no_grad():
        model.hf_model.lm_head.weight[model.end_tokens[0]] *= 2.5
    return model


def plain_generate(vlm: VLM, bench: list[interp.Sample], n: int) -> Any:
    inputs = vlm.batch([vlm.encode(sample) for sample in bench])
    ids = vlm.hf_model.generate(**inputs, do_sample=False, max_new_tokens=n, pad_token_id=vlm.pad_token, use_cache=True)
    return ids[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_equal_generate(vlm: VLM, batch_size: int) -> None:
    bench = samples(9)
    traced = interp.trace(vlm, bench, batch_size=batch_size, max_new_tokens=8)
    lengths = set()
    for start in range(0, len(bench), batch_size):
        block = bench[start : start + batch_size]
        expected = plain_generate(vlm, block, 8)
        texts = vlm.decode(expected)
        assert [str(t) for t in traced["prediction"][start : start + batch_size].values] == texts
        assert vlm.generate(block, max_new_tokens=8) == texts
        for got, ids in zip(traced["answer_ids"][start : start + batch_size].values, expected.tolist(), strict=True):
            said = [i for i in got.tolist() if i >= 0]
            assert said == ids[: len(said)]
            assert all(i in (vlm.pad_token, *vlm.end_tokens) for i in ids[len(said) :])
            lengths.add(len(said))
    assert len(lengths) > 1, "the fixture must end answers at different lengths"


def test_one_answer_is_a_text(vlm: VLM) -> None:
    sample = samples(1)[0]
    assert vlm.generate(sample) == vlm.generate([sample])[0]
    assert vlm.generate([]) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_reference_logprob_is_that_of_a_full_forward_pass(vlm: VLM, batch_size: int) -> None:
    bench = samples(6)
    traced = interp.trace(vlm, bench, batch_size=batch_size, max_new_tokens=3)
    for i, sample in enumerate(bench):
        totals = {}
        for reference in sample.references:
            encoding = vlm.encode(sample)
            said = [*answer_ids(vlm.processor, encoding.text, reference), vlm.end_tokens[0]]
            inputs = vlm.batch([encoding])
            prompt = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.no_grad():
                logits = vlm.hf_model(**inputs).logits[0, prompt - 1 : -1].double().log_softmax(-1)
            totals[float(logits.gather(1, torch.tensor(said)[:, None]).sum())] = len(said)
        best = max(totals)
        assert float(traced["reference_logprob"][i]) == pytest.approx(best, abs=1e-4)
        assert float(traced["reference_logprob_mean"][i]) == pytest.approx(best / totals[best], abs=1e-4)


def test_entropy_is_that_of_the_first_answer_token(vlm: VLM) -> None:
    bench = samples(3)
    for wanted in (True, False):
        traced = interp.trace(vlm, bench, batch_size=3, answers=wanted, max_new_tokens=1)
        for i, sample in enumerate(bench):
            with torch.no_grad():
                logits = vlm.hf_model(**vlm.batch([vlm.encode(sample)])).logits[0, -1]
            expected = float(torch.distributions.Categorical(logits=logits).entropy())
            assert float(traced["entropy"][i]) == pytest.approx(expected, abs=1e-5)


def test_a_reference_follows_the_prompt_as_the_template_writes_it(vlm: VLM) -> None:
    prompt = vlm.encode(samples(1)[0]).text
    assert vlm.processor.tokenizer.convert_ids_to_tokens(answer_ids(vlm.processor, prompt, "two three")) == ["two", "three"]


@pytest.mark.parametrize(
    ("score", "said", "references", "expected"),
    [
        (answers.exact_match, "The  Cat!", ["cat"], 1),
        (answers.exact_match, "a black cat", ["cat"], 0),
        (answers.exact_match, "I cannot answer", ["I cannot answer.", "no"], 1),
        (answers.contains, "It is a black cat.", ["cat"], 1),
        (answers.contains, "category", ["cat"], 0),
        (answers.contains, "anything", ["the"], 0),
        (answers.token_f1, "black cat cat", ["cat"], 0.5),
        (answers.token_f1, "", ["cat"], 0),
        (answers.anls, "HELLO ", ["hello"], 1),
        (answers.anls, "hellp", ["hello"], 0.8),
        (answers.anls, "help", ["world"], 0),
        (answers.vqa_accuracy, "two", ["2"] * 2 + ["3"] * 8, 0.6),
        (answers.vqa_accuracy, "2", ["two"] * 4 + ["3"] * 6, 1),
        (answers.vqa_accuracy, "2", ["two", "three"], 1),
    ],
)
def test_scores(score: answers.Score, said: str, references: list[str], expected: float) -> None:
    assert score(said, references) == pytest.approx(expected)


def test_vqa_closed_form_is_the_mean_over_leave_one_out_sets() -> None:
    for agree in range(11):
        references = ["yes"] * agree + ["no"] * (10 - agree)
        left_out = [min(1.0, (references[:i] + references[i + 1 :]).count("yes") / 3) for i in range(10)]
        assert answers.vqa_accuracy("yes", references) == pytest.approx(float(np.mean(left_out)))
