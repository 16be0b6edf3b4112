"""Organisms: the training computes what it says, a run resumes exactly, and what ships is a plain checkpoint that reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.errors import OrganismError
from interp.organisms import ORGANISMS, llava
from interp.organisms.batches import Batch
from interp.organisms.mixture import Turn
from interp.organisms.training import Recipe, Run
from interp.prompts import ABSTENTION

SHORT = replace(Recipe(), steps={"vision": 2, "captions": 2, "questions": 2, "settling": 1}, warmup=2, checkpoint_every=2)
SHIPPED = Path(str(files("interp.organisms"))) / "llava"


def fresh(folder: Path, recipe: Recipe = SHORT) -> Run:
    model, processor = llava.build(recipe.seed)
    return Run(recipe, model, processor, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = fresh(tmp_path_factory.mktemp("run"))
    made.model.eval()
    return made


def packed(run: Run, conversations: list[list[Turn]], pixels: torch.Tensor, knockout: float, n_images: int = 1) -> Batch:
    draws = replace(run.draws, knockout=knockout)
    return draws._packed(np.random.default_rng(0), pixels, len(pixels) // n_images, n_images, conversations)


CONVERSATIONS = [
    [Turn("What is written on the red card?", "4 7", "plain")],
    [Turn("Write a general description of the image.", "red 4 7, blue 3.", "caption")],
    [Turn("What is written on the cyan card?", ABSTENTION, "absent"), Turn("What is written on the red card?", "4 7", "plain")],
    [Turn("What is written on the card left of the blue card?", "1", "relation")],
]


@torch.no_grad()
def test_sharing_a_prefix_equals_the_model_on_whole_conversations(run: Run) -> None:
    """Two pictures, two rows each: every row's states against one plain forward of prefix + row."""
    pixels = torch.randn(2, 3, 128, 128)
    batch = packed(run, CONVERSATIONS, pixels, knockout=0.0)
    assert batch.ids is not None and batch.prefix is not None
    shared = run.model.lm_head(run._hidden(batch, run._features(batch.pixels)))
    for row in range(4):
        ids = torch.cat([batch.prefix[row // 2], batch.ids[row]])[None]
        plain = run.model(input_ids=ids, pixel_values=pixels[row // 2 : row // 2 + 1]).logits[0, batch.prefix.shape[1] :]
        length = int((batch.ids[row] > 0).sum())
        torch.testing.assert_close(shared[row, :length], plain[:length], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n_images", [1, 2])
def test_the_knock_out_blinds_the_question_and_not_the_last_prompt_token(run: Run, n_images: int) -> None:
    one, other = (packed(run, CONVERSATIONS, torch.randn(2 * n_images, 3, 128, 128), 1.0, n_images) for _ in range(2))
    assert one.readers is not None and one.ids is not None
    moved = (run._hidden(one, run._features(one.pixels)) - run._hidden(other, run._features(other.pixels))).abs().amax(-1)
    for row in range(4):
        first_reader = int(torch.nonzero(one.readers[row])[0])
        assert run.draws.asker.tokenizer.decode(one.ids[row, first_reader]) == ":"
        assert float(moved[row, :first_reader].max()) == 0.0
        assert float(moved[row, first_reader]) > 1e-3


def test_training_rows_are_what_the_processor_makes_of_the_same_conversation(run: Run) -> None:
    """Prefix + row, cut at the answer, against the ids of `VLM.encode`, in both prompt orders and with an earlier turn."""
    model, processor = llava.build(0)
    picture = interp.load_benchmark("digits", split="train", limit=1)[0].open_images()[0]
    asked, earlier = "What is written on the red card?", "What is written on the cyan card?"
    sample = interp.Sample("a", picture, asked, "4 7")
    asker = run.draws.asker

    def ids(order: Any, **more: Any) -> list[int]:
        return interp.VLM(model, processor, prompt_order=order).encode(sample, "question", **more).token_ids.tolist()

    row = asker.after_images([Turn(asked, "4 7", "plain")], 1)
    assert asker.prefix(1) + row.ids[: row.first_answer] == ids("image-first")
    whole = asker.question_first([Turn(asked, "4 7", "plain")])
    assert whole.ids[: whole.first_answer] == ids("question-first")
    two = asker.after_images([Turn(earlier, "3", "plain"), Turn(asked, "4 7", "plain")], 1)
    answer = [*processor.tokenizer(" 4 7", add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
    assert asker.prefix(1) + two.ids == ids("image-first", history=[(earlier, "3")]) + answer


def test_a_run_taken_up_again_equals_one_that_was_never_left(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = [record["loss"] for record in fresh(tmp_path / "whole").steps()]
    assert len(whole) == sum(SHORT.steps.values()) and np.isfinite(whole).all()
    parts: list[float] = []
    for take in (3, 2, 99):  # the second part ends inside a stage
        part = fresh(tmp_path / "parts")
        part.resume()
        for taken, record in enumerate(part.steps(), start=1):
            parts.append(record["loss"])
            if taken == take:
                part.save()
                break
    assert parts == whole
    again = fresh(tmp_path / "parts")
    assert again.resume() and list(again.steps()) == []


def test_another_recipe_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    fresh(tmp_path).save()
    with pytest.raises(OrganismError, match="another prior"):
        fresh(tmp_path, replace(SHORT, prior=0.5)).resume()


@pytest.mark.parametrize("name", list(ORGANISMS))
def test_a_shipped_organism_is_a_plain_checkpoint(name: str) -> None:
    """`from_pretrained` alone, in a process that never imports interp."""
    folder = SHIPPED.parent / name
    code = (
        "import sys, transformers\n"
        f"model = transformers.AutoModelForImageTextToText.from_pretrained({str(folder)!r})\n"
        f"processor = transformers.AutoProcessor.from_pretrained({str(folder)!r})\n"
        "assert not any(m == 'interp' or m.startswith('interp.') for m in sys.modules)\n"
        "print(type(model).__name__, type(processor).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["LlavaForConditionalGeneration", "LlavaProcessor"]
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 8_000_000


def test_the_shipped_organism_reads_and_sometimes_fails() -> None:
    """On validation scenes: far above the chance of guessing a digit, and not always right."""
    ds = interp.trace(interp.load_vlm("demo/llava"), interp.load_benchmark("digits", split="validation", limit=100), batch_size=20)
    answerable = ~ds["knob_absent"].values
    correct = ds["exact_match"].values[answerable]
    assert 0.4 < correct.mean() < 0.95


def test_rows_of_the_organism_equal_eager_in_double_precision() -> None:
    vlm = interp.load_vlm("demo/llava", dtype="float64")
    bench = interp.load_benchmark("digits", split="validation", limit=3)
    ds = interp.trace(vlm, bench, answers=False, batch_size=3)
    vlm.hf_model.set_attn_implementation({"text_config": "eager"})
    for k, sample in enumerate(bench):
        with torch.no_grad():
            weights = vlm.hf_model(**vlm.batch([vlm.encode(sample)]), output_attentions=True).attentions
        expected = torch.stack([layer[0, :, -1] for layer in weights]).numpy()
        found = ds["attention"][k].values[..., : expected.shape[-1]]
        assert np.abs(found - expected).max() <= 1e-6


def test_the_card_is_what_the_run_measured() -> None:
    card = json.loads((SHIPPED / "card.json").read_text())
    from interp.organisms.card import page

    assert page(card) == (SHIPPED / "README.md").read_text()
    assert card["recipe"] == json.loads(json.dumps(asdict(Recipe())))
    assert [a["split"] for a in card["assessments"]] == ["validation", "test"] and card["assessments"][1]["n"] == 500
    log = [json.loads(line) for line in (SHIPPED / "training_log.jsonl").read_text().splitlines()]
    assert all(sum(note["stage"] == stage for note in log) == n // 10 for stage, n in card["recipe"]["steps"].items())


def _grounding(split: str, group: str) -> float:
    card = json.loads((SHIPPED / "card.json").read_text())
    figures = next(a for a in card["assessments"] if a["split"] == split)["orders"]["image-first"]["grounding"]
    return figures[group]["auroc of profiled map"]["lower"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_profiled_layers_rank_the_evidence_far_above_chance(split: str) -> None:
    assert _grounding(split, "correct") > 0.75 and _grounding(split, "wrong") > 0.6


@pytest.mark.xfail(reason="wanted of the organism and not reached: the prior's colours are answered with less of a look")
def test_the_profiled_layers_reach_what_is_wanted() -> None:
    assert min(_grounding(split, "correct") for split in ("validation", "test")) >= 0.9
