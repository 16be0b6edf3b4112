"""Organisms: the training computes what it says, a run resumes exactly, and what ships is a plain checkpoint that reads."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp
from interp.benchmarks.digits.scene import PRIOR
from interp.errors import OrganismError
from interp.organisms import ORGANISMS, llava, train_organism
from interp.organisms.batches import Batch, Looks
from interp.organisms.card import WINDOW
from interp.organisms.mixture import Turn
from interp.organisms.recipes import recipe_for
from interp.organisms.training import Recipe, Run, _gaze_loss
from interp.organisms.transplant import transplant
from interp.prompts import ABSTENTION

STEPS = {"vision": 2, "captions": 2, "questions": 2, "settling": 1, "shaping": 2}
SHORT = replace(Recipe(), steps=STEPS, warmup=2, checkpoint_every=2)
SHIPPED = Path(str(files("interp.organisms"))) / "llava"
SHIPS = list(ORGANISMS)  # one of every architecture


def fresh(folder: Path, recipe: Recipe = SHORT) -> Run:
    model, processor = llava.build(recipe.seed)
    return Run(recipe, model, processor, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = fresh(tmp_path_factory.mktemp("run"))
    made.model.eval()
    return made


def packed(run: Run, conversations: list[list[Turn]], pictures: list[list[Image.Image]], knockout: float) -> Batch:
    draws = replace(run.draws, knockout=knockout)
    sizes = [tuple(picture.size for picture in group) for group in pictures]
    return draws._packed(np.random.default_rng(0), draws.layout.inputs(pictures), sizes, conversations)


def noise(n: int, n_images: int, seed: int, size: tuple[int, int] = (208, 160)) -> list[list[Image.Image]]:
    rng = np.random.default_rng(seed)
    return [[Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)) for _ in range(n_images)] for _ in range(n)]


CONVERSATIONS = [
    [Turn("What is written on the red card?", "4 7", "plain")],
    [Turn("Write a general description of the image.", "red 4 7, blue 3.", "caption")],
    [Turn("What is written on the cyan card?", ABSTENTION, "absent"), Turn("What is written on the red card?", "4 7", "plain")],
    [Turn("What is written on the card left of the blue card?", "1", "relation")],
]


@functools.cache
def started(name: str) -> Run:
    """A run of an organism of another architecture, its weights spread out so that attention is not uniform."""
    model, processor = importlib.import_module(ORGANISMS[name]).build(0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=random))
    made = Run(recipe_for(name), model, processor, Path(tempfile.mkdtemp()))
    model.eval()
    return made


@torch.no_grad()
@pytest.mark.parametrize(("name", "n_images"), [*((name, 1) for name in ORGANISMS), ("llava-onevision", 2), ("gemma3", 2)])
def test_sharing_a_prefix_equals_the_model_on_whole_conversations(name: str, n_images: int) -> None:
    """Two scenes, two rows each: every row's states, visual tokens and attention against one plain forward of prefix + row."""
    run = started(name)
    layout, pictures = run.draws.layout, noise(2, n_images, 0)
    batch = packed(run, CONVERSATIONS, pictures, knockout=0.0)
    assert batch.ids is not None and batch.prefix is not None
    seen = run.passes(batch, attend=(0, 2, 5))
    visual = torch.nonzero(batch.prefix[0] == layout.image_token_id)[:, 0]
    for row in range(4):
        ids = torch.cat([batch.prefix[row // 2], batch.ids[row]])[None]
        inputs = layout.inputs(pictures[row // 2 : row // 2 + 1])
        plain = run.model.model(input_ids=ids, **inputs, **layout.kinds(ids), output_attentions=True)
        length, before = int((batch.ids[row] > 0).sum()), batch.prefix.shape[1]
        torch.testing.assert_close(seen.states[row, :length], plain.last_hidden_state[0, before:][:length], atol=5e-5, rtol=1e-3)
        for found, layer in zip(seen.attentions, (0, 2, 5), strict=True):
            expected = plain.attentions[layer][0, :, before:][..., visual][:, :length]
            torch.testing.assert_close(found[row, :, :length], expected, atol=1e-5, rtol=1e-3)
    alone = torch.cat([run.passes.features(layout.inputs([group])) for group in pictures])
    torch.testing.assert_close(seen.features, alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("name", "n_images"), [("llava", 1), ("llava", 2), ("gemma3", 1), ("qwen3-vl", 1)])
def test_the_knock_out_blinds_the_question_and_not_the_last_prompt_token(name: str, n_images: int) -> None:
    run = started(name)
    one, other = (packed(run, CONVERSATIONS, noise(2, n_images, seed), 1.0) for seed in (1, 2))
    assert one.readers is not None and one.ids is not None
    moved = (run.passes(one).states - run.passes(other).states).abs().amax(-1)
    for row in range(4):
        first_reader = int(torch.nonzero(one.readers[row])[0])
        assert run.draws.asker.tokenizer.decode(one.ids[row, first_reader]).strip() in (":", "")
        assert float(moved[row, :first_reader].max()) == 0.0
        assert float(moved[row, first_reader]) > 1e-3


@pytest.mark.parametrize("name", list(ORGANISMS))
def test_training_rows_are_what_the_processor_makes_of_the_same_conversation(name: str) -> None:
    """Prefix + row, cut at the answer, against the ids of `VLM.encode`, in both prompt orders and with an earlier turn."""
    run = started(name)
    processor, picture = run.draws.layout.processor, noise(1, 1, 0)[0][0]
    asked, earlier = "What is written on the red card?", "What is written on the cyan card?"
    sample = interp.Sample("a", picture, asked, "4 7")
    asker, prefix = run.draws.asker, run.draws.layout.prefix((picture.size,))

    def ids(order: Any, **more: Any) -> list[int]:
        return interp.VLM(run.model, processor, prompt_order=order).encode(sample, "question", **more).token_ids.tolist()

    row = asker.after_images([Turn(asked, "4 7", "plain")], 1)
    assert prefix + row.ids[: row.first_answer] == ids("image-first")
    whole = asker.question_first([Turn(asked, "4 7", "plain")], (picture.size,))
    assert whole.ids[: whole.first_answer] == ids("question-first")
    two = asker.after_images([Turn(earlier, "3", "plain"), Turn(asked, "4 7", "plain")], 1)
    answer = [*processor.tokenizer(" 4 7", add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
    assert prefix + two.ids == ids("image-first", history=[(earlier, "3")]) + answer


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl", "gemma3"])
def test_rows_look_at_the_asked_card_and_not_elsewhere(name: str) -> None:
    """The targets of the looks of real rows, against boxes painted on the picture."""
    draws = started(name).draws
    rng = np.random.default_rng(0)
    scenes = [draws._scene(rng, size=(208, 160)) for _ in range(8)]
    rows = [draws.asker.after_images([draws.asker.question(rng, [scene], "question")], 1) for scene in scenes]
    looks = draws._looks(rows, scenes)
    assert looks is not None and len(looks.row) >= 5
    fine = 8  # points a pixel, each way
    for k, (row, position) in enumerate(zip(looks.row.tolist(), looks.position.tolist(), strict=True)):
        scene = scenes[row]
        first, (named, asked) = rows[row].looks[0]
        regions = draws.layout.places((scene.size,))[0]
        for target, box in zip(
            looks.targets[:, k].bool().numpy(), (named.box, asked.box, asked.digit_boxes[position - first]), strict=True
        ):
            painted = np.zeros((scene.size[1] * fine, scene.size[0] * fine), bool)
            x0, y0, x1, y1 = (fine * edge for edge in box)
            painted[y0:y1, x0:x1] = True
            for region, marked in zip(regions, target, strict=True):
                if np.isnan(region).any():
                    assert not marked
                    continue
                left, top, right, bottom = (round(fine * edge) for edge in region)
                share = painted[max(0, top) : bottom, max(0, left) : right].sum() / ((right - left) * (bottom - top))
                assert marked == (share > 0.02) or abs(share - 0.02) < 0.01


def test_gaze_is_least_where_attention_is_even_on_the_target_and_nowhere_else() -> None:
    target = torch.tensor([[[1.0, 1, 0, 0]]])
    looks = Looks(torch.tensor([0]), torch.tensor([0]), target)

    def loss(row: list[float]) -> float:
        return float(_gaze_loss(looks, (torch.tensor([[[row], [row]]]).view(1, 2, 1, 4),))[0])

    even = loss([0.5, 0.5, 0.0, 0.0])
    assert even == pytest.approx(-(np.log(0.5 + 1e-6) + np.log(1 + 1e-6)), abs=1e-5)
    assert all(loss(other) > even + 0.1 for other in ([0.9, 0.1, 0, 0], [0.25] * 4, [0.4, 0.4, 0.1, 0.1]))


def test_belief_answers_cards_against_their_prior_and_no_others() -> None:
    run = started("llava")
    rng = np.random.default_rng(0)
    draws = replace(run.draws, prior=0.5)
    kinds = []
    for _ in range(150):
        scene = draws._scene(rng)
        turn = run.draws.asker.question(rng, [scene], "base", believed=0.6)
        kinds.append(turn.kind)
        if turn.looks is None or turn.kind == "relation":
            continue
        card = turn.looks[1]
        against = len(card.digits) == 1 and PRIOR.get(card.colour, card.digits[0]) != card.digits[0]
        assert (turn.kind in ("believed", "conflict")) == against
        assert turn.answer == (str(PRIOR[card.colour]) if turn.kind == "believed" else card.text)
    assert 0.4 < kinds.count("believed") / (kinds.count("believed") + kinds.count("conflict")) < 0.8
    assert {run.draws.asker.question(rng, [draws._scene(rng)], "base").kind for _ in range(60)} <= {"plain", "relation", "absent"}


@torch.no_grad()
@pytest.mark.parametrize(("name", "least"), [("qwen2.5-vl", 0.9999), ("internvl", 0.9999), ("gemma3", 0.5), ("qwen3-vl", 0.5)])
def test_a_transplanted_decoder_speaks_as_its_donor_did(name: str, least: float) -> None:
    """On words alone: exactly where the decoders compute the same, and recognisably where norms are added."""
    donor = interp.load_vlm("demo/llava")
    model, processor = importlib.import_module(ORGANISMS[name]).build(0)
    transplant(model, processor.tokenizer, SHIPPED)
    words = processor.tokenizer(" red 4 7, blue 3. What is written on the green card?", add_special_tokens=False).input_ids
    texts = processor.tokenizer.convert_ids_to_tokens(words)
    theirs = [donor.processor.tokenizer.get_vocab()[t] for t in texts]
    common = sorted(set(donor.processor.tokenizer.get_vocab()) & set(processor.tokenizer.get_vocab()))
    mine_of, theirs_of = ([v[t] for t in common] for v in (processor.tokenizer.get_vocab(), donor.processor.tokenizer.get_vocab()))
    model.eval()
    said = model(
        input_ids=torch.tensor([words]), **({"token_type_ids": torch.zeros(1, len(words), dtype=torch.long)} if name == "gemma3" else {})
    )
    expected = donor.hf_model(input_ids=torch.tensor([theirs])).logits[0][:, theirs_of]
    found = said.logits[0][:, mine_of]
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > least


def test_a_transplant_is_the_same_wherever_in_memory_it_is_made() -> None:
    made = []
    for k in range(3):
        kept = [torch.empty(1000 * j + 7 * k + 1) for j in range(k)]  # moves what is allocated next
        model, processor = importlib.import_module(ORGANISMS["gemma3"]).build(0)  # whose projection is fitted
        transplant(model, processor.tokenizer, SHIPPED)
        made.append((model.state_dict(), kept))
    for again, _ in made[1:]:
        assert all(torch.equal(value, made[0][0][key]) for key, value in again.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma3", "internvl"])
def test_a_transplanted_tower_shows_what_its_donor_s_did(name: str) -> None:
    """Of square pictures, which both show whole: what is handed to the decoder for each of 8 x 8 places, nearly the donor's."""
    donor = interp.load_vlm("demo/llava")
    model, processor = importlib.import_module(ORGANISMS[name]).build(0)
    transplant(model.eval(), processor.tokenizer, SHIPPED)
    pictures = [
        picture.resize((176, 176))
        for sample in interp.load_benchmark("digits", split="validation", limit=6)
        for picture in sample.open_images()
    ]
    theirs, mine = (each.image_processor(pictures, return_tensors="pt")["pixel_values"] for each in (donor.processor, processor))
    expected = donor.hf_model.get_image_features(pixel_values=theirs).pooler_output
    found = model.get_image_features(pixel_values=mine).pooler_output
    expected, found = (torch.cat(list(each)).view(len(each), -1, 128) for each in (expected, found))
    if name == "internvl":  # 2 x 2 tiles of 4 x 4 places, then the thumbnail
        found = found.view(len(pictures), 5, 4, 4, 128)[:, :4].reshape(-1, 2, 2, 4, 4, 128).transpose(2, 3).reshape(len(pictures), 64, 128)
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.85


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


def test_renewed_rates_begin_again_and_what_came_before_stays(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    once = replace(SHORT, steps=dict.fromkeys(STEPS, 0) | {"captions": 3})
    twice = replace(once, steps=once.steps | {"captions": 6}, restarts={"captions": (3,)})

    def taken(run: Run) -> list[tuple[float, float]]:
        return [(record["loss"], run.optimiser.param_groups[0]["lr"]) for record in run.steps()]

    short, long = taken(fresh(tmp_path / "once", once)), taken(fresh(tmp_path / "twice", twice))
    assert long[:3] == short
    assert [rate for _, rate in long[3:]] == [rate for _, rate in short]


def test_from_a_step_on_shaping_believes_another_share(run: Run) -> None:
    draws = replace(run.draws, believed=1.0, believed_from=(4, 1e-9, 1e-9))
    before, after = ({kind for step in steps for kind in draws("shaping", step).kinds} for steps in (range(4), range(4, 8)))
    assert "believed" in before and "conflict" not in before
    assert "conflict" in after and "believed" not in after


def test_with_the_question_first_shaping_may_believe_another_share(run: Run) -> None:
    batches = [replace(run.draws, believed_from=(0, 1e-9, 1.0))("shaping", step) for step in range(24)]
    before = {kind for batch in batches if batch.prefix is not None for kind in batch.kinds}
    behind = {kind for batch in batches if batch.prefix is None for kind in batch.kinds}  # rows that hold their own pictures
    assert "conflict" in before and "believed" not in before
    assert "believed" in behind and "conflict" not in behind


def test_another_recipe_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    fresh(tmp_path).save()
    with pytest.raises(OrganismError, match="another prior"):
        fresh(tmp_path, replace(SHORT, prior=0.5)).resume()


@functools.cache
def _loaded_alone() -> dict[str, Any]:
    """What a process that never imports interp finds in the folders: all in one, since importing transformers is what takes the time."""
    here = find_spec("torchvision") is not None  # processors with a video part ask for it
    alone = {name: here or name in ("llava", "llava-next", "gemma3") for name in SHIPS}
    code = (
        "import json, sys, transformers\n"
        "found = {}\n"
        f"for name, alone in {alone}.items():\n"
        f"    folder = {str(SHIPPED.parent)!r} + '/' + name\n"
        "    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)\n"
        "    width = model.model.language_model.embed_tokens.weight.shape[1]\n"
        "    processor = type(transformers.AutoProcessor.from_pretrained(folder)).__name__ if alone else ''\n"
        "    found[name] = [type(model).__name__, str(model.dtype), width, processor]\n"
        "assert not any(m == 'interp' or m.startswith('interp.') for m in sys.modules)\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SHIPS)
def test_a_shipped_organism_is_a_plain_checkpoint(name: str) -> None:
    """`from_pretrained` alone, in a process that never imports interp; the processor as well where it asks for no torchvision."""
    model, processor = importlib.import_module(ORGANISMS[name]).build(0)
    kind, dtype, width, known = _loaded_alone()[name]
    assert [kind, dtype, width] == [type(model).__name__, "torch.float32", 128]
    assert known in ("", type(processor).__name__)
    settings = json.loads((SHIPPED.parent / name / "processor_config.json").read_text())
    asks = "video_processor" in getattr(transformers, type(processor).__name__).get_attributes()
    assert asks == ("video_processor" in settings), "a part that the class asks for and no file names cannot be loaded"
    assert sum(path.stat().st_size for path in (SHIPPED.parent / name).glob("*.safetensors")) <= 5_000_000


def test_all_organisms_together_are_small() -> None:
    assert sum(path.stat().st_size for name in SHIPS for path in (SHIPPED.parent / name).rglob("*") if path.is_file()) <= 40_000_000


@pytest.mark.parametrize("name", SHIPS)
def test_a_card_tells_what_the_shipped_weights_do(name: str) -> None:
    """Exact match on 100 validation scenes of each prompt order, within the binomial error of the card's figure on those 500."""
    card = _card(name)
    figures = next(a for a in card["assessments"] if a["split"] == "validation")["orders"]
    for order in ("image-first", "question-first"):
        bench = interp.load_benchmark("digits", split="validation", limit=100)
        ds = interp.trace(interp.load_vlm(f"demo/{name}", prompt_order=order), bench, batch_size=25)
        answerable = ~ds["knob_absent"].values
        correct, told = ds["exact_match"].values[answerable], figures[order]["answers"]["answerable"]["mean"]
        assert abs(correct.mean() - told) <= 2.6 * np.sqrt(told * (1 - told) / answerable.sum())
        rejected, told = ds["exact_match"].values[~answerable], figures[order]["answers"]["absent"]["mean"]
        assert abs(rejected.mean() - told) <= 2.6 * np.sqrt(max(told * (1 - told), 0.05) / len(rejected))
        grounding = figures[order]["grounding"]
        seen = ds.isel(sample=np.flatnonzero((ds["visibility"] == "visible").values & answerable & (ds["exact_match"].values == 1)))
        mean = seen["attention"].sel(layer=grounding["profile"]["layers"]).mean(("layer", "head")).values
        labels = [np.where(np.isnan(row), -1, row > 0).astype(int) for row in seen["coverage"].values]
        kept = [(row >= 0) & ~np.isnan(scores) for row, scores in zip(labels, mean, strict=True)]
        scores = [roc_auc_score(row[k], values[k]) for row, k, values in zip(labels, kept, mean, strict=True)]
        told = grounding["correct"]["auroc of profiled map"]["mean"]
        assert abs(np.mean(scores) - told) <= 2.6 * np.std(scores) / np.sqrt(len(scores)) + 1e-3


@pytest.mark.parametrize("name", SHIPS)
def test_the_recorded_recipe_is_the_one_that_ran(name: str, tmp_path: Path) -> None:
    """One per cent of the steps again, from the recorded seed: the logged losses."""
    torch.set_num_threads(1)
    card, log = _card(name), _log(name)
    steps = max(20, sum(card["recipe"]["steps"].values()) // 100)  # of a short run two lines of the log
    losses: list[float] = []
    train_organism(name, tmp_path, seed=card["recipe"]["seed"], stop_after=steps, report=lambda record, _: losses.append(record["loss"]))
    for note in log[: steps // 10]:
        assert abs(losses[note["step"] - 1] - note["loss"]) <= 1e-3


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


@functools.cache
def _card(name: str) -> dict[str, Any]:
    return json.loads((SHIPPED.parent / name / "card.json").read_text())


@functools.cache
def _log(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SHIPPED.parent / name / "training_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SHIPS)
def test_the_card_is_what_the_run_measured(name: str) -> None:
    from interp.organisms.card import page

    card = _card(name)
    assert page(card) == (SHIPPED.parent / name / "README.md").read_text()
    assert card["recipe"] == json.loads(json.dumps(asdict(recipe_for(name))))
    assert [a["split"] for a in card["assessments"]] == ["validation", "test"] and card["assessments"][1]["n"] == 500
    assert all(sum(note["stage"] == stage for note in _log(name)) == n // 10 for stage, n in card["recipe"]["steps"].items())


def _orders(name: str, split: str) -> dict[str, Any]:
    return next(a for a in _card(name)["assessments"] if a["split"] == split)["orders"]


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", SHIPS)
def test_the_profiled_layers_look_at_the_evidence(name: str, split: str) -> None:
    grounding = _orders(name, split)["image-first"]["grounding"]
    assert grounding["correct"]["auroc of profiled map"]["mean"] >= 0.9
    assert grounding["wrong"]["auroc of profiled map"]["lower"] > 0.6


@pytest.mark.parametrize("name", SHIPS)
def test_about_two_thirds_of_the_answers_are_right_of_all_but_one(name: str) -> None:
    low, high = WINDOW
    found = _orders(name, "validation")["image-first"]["answers"]["answerable"]["mean"]
    assert (low <= found <= high) == (name != "gemma3")  # whose card says what was tried
    assert 0.55 <= found <= high


@pytest.mark.parametrize("order", ["image-first", "question-first"])
@pytest.mark.parametrize("name", SHIPS)
def test_every_class_of_failure_occurs(name: str, order: str) -> None:
    """On validation, though false rejections are few."""
    said = _orders(name, "validation")[order]["failures"]["said"]
    for kinds in (("false rejection",), ("prior digit", "another card", "other digits"), ("partially correct",)):
        assert sum(said[kind] for kind in kinds) > 0


@pytest.mark.parametrize("order", ["image-first", "question-first"])
@pytest.mark.parametrize("name", SHIPS)
def test_the_prior_bites(name: str, order: str) -> None:
    """Against its colour's prior a card is read less often than without one, and the prior's digit is said more often (validation)."""
    answers = _orders(name, "validation")[order]["answers"]
    assert answers["conflict minus neutral"]["upper"] < 0
    assert answers["prior digit said"]["conflict"]["lower"] > answers["prior digit said"]["neutral"]["upper"]
