"""Untrained organisms: plain checkpoints of the real classes, whose processors and layers do what makes each family itself."""

from __future__ import annotations

import importlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import interp
from interp.encoding import SEGMENTS
from interp.organisms.tokenizer import BOS, EOS
from interp.prompts import PromptOrder, user_turn
from interp.vlm import VLM

NAMES = ("llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl")
families = pytest.mark.parametrize("name", NAMES)

# Visual tokens of pictures of these sizes (width, height).
SIZES = ((160, 160), (224, 160), (240, 160), (160, 240))
TOKENS = {
    "llava_next": (88, 120, 120, 124),  # 16 of the whole, then 8 rows of 8 or 12 and a newline, or 12 rows of 8
    "llava_onevision": (88, 120, 120, 124),
    "qwen2_5_vl": (81, 70, 77, 77),
    "qwen3_vl": (81, 70, 77, 77),
    "gemma3": (64, 64, 64, 64),
    "internvl": (80, 112, 112, 112),  # 16 a tile
}


@cache
def built(name: str) -> tuple[Any, Any]:
    model, processor = importlib.import_module(f"interp.organisms.{name}").build(0)
    return model.eval(), processor


@cache
def vlm(name: str, order: PromptOrder = "image-first") -> VLM:
    return VLM(*built(name), prompt_order=order)


@cache
def two_shapes() -> tuple[interp.Sample, interp.Sample]:
    bench = interp.load_benchmark("digits", split="train", limit=20)
    first = bench[0]
    ratios = [picture.width / picture.height for picture in (sample.open_images()[0] for sample in bench)]
    return first, bench[int(np.argmax(np.abs(np.log(ratios) - np.log(ratios[0]))))]


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def asked(*pictures: Image.Image, reference: str = "4 7") -> interp.Sample:
    return interp.Sample("a", list(pictures), "What is written on the red card?", reference)


def prepared(name: str, *pictures: Image.Image) -> dict[str, Any]:
    """What the processor makes of a rendered prompt, as training asks it."""
    processor = built(name)[1]
    turn = user_turn("What is written on the red card?", len(pictures))
    rendered = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return dict(processor(text=[rendered], images=[list(pictures)], return_tensors="pt"))


@families
def test_it_loads_as_any_checkpoint_does(name: str, tmp_path: Path) -> None:
    model, processor = built(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path).state_dict()
    ours = interp.load_vlm(tmp_path, device="cpu")
    assert type(ours.hf_model) is type(model) and type(ours.processor).__name__ == type(processor).__name__
    for each in (plain, ours.hf_model.state_dict()):
        assert set(each) == set(model.state_dict())
        assert all(torch.equal(weights, each[key]) for key, weights in model.state_dict().items())
    assert model.lm_head.weight is model.get_input_embeddings().weight and model.config.get_text_config().tie_word_embeddings
    one = asked(picture(0, (224, 160)))
    here, there = vlm(name).encode(one), ours.encode(one)
    assert here.text == there.text and set(here.inputs) == set(there.inputs)
    assert all(torch.equal(value, there.inputs[key]) for key, value in here.inputs.items())
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)


@families
def test_it_is_made_from_its_seed(name: str) -> None:
    build = importlib.import_module(f"interp.organisms.{name}").build
    same, other = (build(seed)[0].state_dict() for seed in (0, 1))
    ours = built(name)[0].state_dict()
    assert all(torch.equal(weights, same[key]) for key, weights in ours.items())
    drawn = [key for key, weights in ours.items() if weights.ndim > 1 and weights.std() > 0]
    assert drawn and not any(torch.equal(ours[key], other[key]) for key in drawn)


@families
def test_decoders_have_one_size(name: str) -> None:
    text = built(name)[0].config.get_text_config()
    sizes = (text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads)
    assert sizes == (128, 256, 8, 8, 4)
    attention = built(name)[0].model.language_model.layers[0].self_attn
    assert attention.head_dim == 16 and attention.scaling == 16**-0.5
    assert text.max_position_embeddings == 2048 and text.vocab_size == len(built(name)[1].tokenizer)
    assert sum(p.numel() for p in built(name)[0].parameters()) < 2_200_000


@families
@pytest.mark.parametrize("order", ["image-first", "question-first"])
def test_traces_are_finite_on_pictures_of_two_shapes(name: str, order: PromptOrder) -> None:
    model = vlm(name, order)
    ds = interp.trace(model, two_shapes(), batch_size=2, max_new_tokens=2)
    rows = ds["attention"].values
    reached = np.isfinite(rows)
    np.testing.assert_allclose(np.where(reached, rows, 0).sum(-1), 1, atol=1e-5)
    n_token = ds["n_token"].values
    full = np.array([kind == "full" for kind in model.layer_kinds])
    for sample in range(2):
        assert reached[sample, full, :, : n_token[sample]].all()
    assert np.isfinite(ds["reference_logprob"].values).all()


@families
def test_two_pictures_are_seen_in_both_orders(name: str) -> None:
    pictures = picture(0, (160, 160)), picture(1, (160, 240))
    for order in ("image-first", "question-first"):
        encoding = vlm(name, order).encode(asked(*pictures))
        ours = encoding.segment == SEGMENTS.index("image")
        assert {*encoding.image_index[ours]} == {0, 1}
        with torch.no_grad():
            logits = [
                built(name)[0](**vlm(name, order).encode(asked(pictures[0], second)).inputs).logits[0, -1]
                for second in (pictures[1], picture(2, (160, 240)))
            ]
        assert torch.isfinite(logits[0]).all() and (logits[0] - logits[1]).abs().max() > 1e-4, "the second picture is read"


@families
def test_visual_tokens_by_the_shape_of_a_picture(name: str) -> None:
    model = built(name)[0]
    found = [int((prepared(name, picture(0, size))["input_ids"] == model.config.image_token_id).sum()) for size in SIZES]
    assert tuple(found) == TOKENS[name]


@families
@torch.no_grad()
def test_features_are_one_row_a_visual_token(name: str) -> None:
    """What training reads from a processor's picture inputs is what the whole model puts in their places."""
    model = built(name)[0]
    inputs = prepared(name, picture(0, (224, 160)))
    seen: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    pictures = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask") and "type_ids" not in key}
    features = model.model.get_image_features(**pictures, return_dict=True).pooler_output
    flat = torch.cat([each.flatten(end_dim=-2) for each in features])
    places = inputs["input_ids"] == model.config.image_token_id
    torch.testing.assert_close(seen[0][places], flat)
    words = model.get_input_embeddings()(inputs["input_ids"])
    torch.testing.assert_close(seen[0][~places], words[~places])


@families
def test_a_loss_on_words_reaches_the_towers_first_layer(name: str) -> None:
    """At the start of training no parameter on the way from a picture to the words is dead."""
    model = importlib.import_module(f"interp.organisms.{name}").build(0)[0]
    model(**prepared(name, picture(0, (160, 160)))).logits[0, -1].logsumexp(0).backward()
    tower = model.model.visual if hasattr(model.model, "visual") else model.model.vision_tower
    patches = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d))
    assert patches.weight.grad is not None and patches.weight.grad.abs().max() > 1e-9


def test_words_have_the_same_ids_everywhere() -> None:
    """So that the output head of one trained organism can start another's; the shipped organism's tokenizer is unchanged."""
    shipped = json.loads((Path(str(files("interp.organisms"))) / "llava" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    for name in NAMES:
        tokenizer = built(name)[1].tokenizer
        own = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        special = {token.content for token in tokenizer.added_tokens_decoder.values()}
        words = {token: at for token, at in shipped["vocab"].items() if token != "<image>"}
        assert {token: at for token, at in own["vocab"].items() if token not in special - set(words)} == words
        assert own["merges"] == shipped["merges"]
        assert built(name)[0].config.image_token_id == 3


@families
@pytest.mark.parametrize("order", ["image-first", "question-first"])
def test_a_conversation_is_prompt_answer_end_and_the_next_prompt(name: str, order: PromptOrder) -> None:
    """Answers are words that the benchmark's questions have too, one token each, ended by EOS: what training strings together."""
    model, tokenizer = vlm(name, order), built(name)[1].tokenizer
    sample = asked(picture(0, (160, 160)))
    first = model.encode(sample, "question").token_ids.tolist()
    follow_up = tokenizer(built(name)[1].apply_chat_template([user_turn(sample.question, 0)], tokenize=False, add_generation_prompt=True))
    answer = [tokenizer.vocab[token] for token in ("\u0120red", "\u01204", "\u01207", ".", EOS)]
    both = model.encode(sample, "question", history=[(sample.question, "red 4 7.")]).token_ids.tolist()
    assert follow_up["input_ids"][0] == tokenizer.vocab[BOS]
    assert both == first + answer + follow_up["input_ids"][1:]


def boxes(name: str, size: tuple[int, int]) -> Any:
    encoding = vlm(name).encode(asked(picture(0, size)))
    return encoding, encoding.segment == SEGMENTS.index("image")


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize(("size", "tiles", "rows"), [((160, 160), 4, 8), ((224, 160), 6, 8), ((160, 240), 6, 12)])
def test_anyres_has_the_whole_and_tiles_with_row_newlines(name: str, size: tuple[int, int], tiles: int, rows: int) -> None:
    encoding, image = boxes(name, size)
    newlines = image & np.isnan(encoding.token_boxes[:, 0])
    assert {*encoding.view[image & ~newlines]} == {0, 1} and encoding.inputs["pixel_values"].shape == (1, 1 + tiles, 3, 64, 64)
    assert newlines.sum() == len({*encoding.row[image & (encoding.view == 1)]}) == rows
    model = built(name)[0]
    features = model.model.get_image_features(
        **{k: v for k, v in encoding.inputs.items() if "type" not in k and k not in ("input_ids", "attention_mask")}, return_dict=True
    )
    last = torch.from_numpy(newlines[image])
    torch.testing.assert_close(features.pooler_output[0][last], model.model.image_newline.expand(rows, -1))


def test_several_pictures_have_no_tiles_in_onevision() -> None:
    encoding = vlm("llava_onevision").encode(asked(picture(0, (160, 160)), picture(1, (160, 240))))
    tokens = encoding.segment == SEGMENTS.index("image")
    assert tokens.sum() == 2 * 17 and np.isnan(encoding.token_boxes[tokens, 0]).sum() == 2, "a square of 16 and a newline each"
    assert encoding.inputs["pixel_values"].shape[0] == 2 and {*encoding.view[tokens]} == {0, -1}


@pytest.mark.parametrize(("size", "tiles"), [((160, 160), 4), ((224, 160), 6)])
def test_tiles_come_before_the_whole_picture_in_internvl(size: tuple[int, int], tiles: int) -> None:
    encoding, image = boxes("internvl", size)
    views = encoding.view[image]
    assert views.tolist() == np.repeat(np.arange(tiles + 1), 16).tolist()
    last = encoding.token_boxes[image][views == tiles]
    assert (last[:, 0].min(), last[:, 1].min(), last[:, 2].max(), last[:, 3].max()) == (0, 0, *size)


@torch.no_grad()
def test_qwen2_5_attends_in_windows_but_in_one_layer() -> None:
    model = built("qwen2_5_vl")[0]
    lengths: list[list[int]] = []
    hooks = [
        block.attn.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["cu_seqlens"].diff().tolist()), with_kwargs=True
        )
        for block in model.model.visual.blocks
    ]
    for size in SIZES:
        prepared_inputs = prepared("qwen2_5_vl", picture(0, size))
        model.model.visual(prepared_inputs["pixel_values"], grid_thw=prepared_inputs["image_grid_thw"])
    for hook in hooks:
        hook.remove()
    per_picture = [lengths[k : k + 3] for k in range(0, len(lengths), 3)]
    assert [[len(layer) for layer in layers] for layers in per_picture] == [[4, 1, 4], [4, 1, 4], [6, 1, 6], [6, 1, 6]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_row_and_a_column_move_a_token_in_other_ways(name: str) -> None:
    """Each of the 8 rotary frequencies turns with one of time, height and width, and each of these turns two or more."""
    decoder = built(name)[0].model.language_model
    turned = []
    for axis in range(3):
        positions = torch.zeros(3, 1, 1, dtype=torch.long)
        positions[axis] = 1
        sines = decoder.rotary_emb(torch.zeros(1), positions)[1]
        if sines.ndim == 4:  # the sections are put together later, inside attention
            sections = decoder.config.rope_parameters["mrope_section"] * 2
            sines = torch.cat([part[k % 3] for k, part in enumerate(sines.split(sections, dim=-1))], dim=-1)
        turned.append((sines.flatten()[:8] != 0).tolist())
    assert np.sum(turned, axis=0).tolist() == [1] * 8 and np.sum(turned, axis=1).min() >= 2
    assert np.sum(turned, axis=1).tolist() == decoder.config.rope_parameters["mrope_section"], "none is lost in interleaving"


@torch.no_grad()
def test_qwen3_adds_two_tower_layers_to_the_first_two_decoder_layers() -> None:
    model = built("qwen3_vl")[0]
    inputs = prepared("qwen3_vl", picture(0, (160, 160)))
    found = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True).deepstack_features
    entering, leaving = [], []
    layers = model.model.language_model.layers
    hooks = [layer.register_forward_hook(lambda module, args, out: leaving.append(out)) for layer in layers[:3]]
    hooks += [layer.register_forward_pre_hook(lambda module, args: entering.append(args[0])) for layer in layers[:4]]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    places = inputs["input_ids"] == model.config.image_token_id
    for after in range(3):
        added = entering[after + 1][places] - leaving[after][places]
        expected = found[after][0] if after < 2 else torch.zeros_like(added)
        torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)
    assert hasattr(layers[0].self_attn, "q_norm") and len(found) == 2


def test_gemma_slides_in_six_layers_that_miss_the_picture() -> None:
    model = vlm("gemma3")
    assert model.layer_kinds == (("sliding", "sliding", "full") * 3)[:8]
    ds = interp.trace(model, two_shapes()[:1], answers=False)
    image = ds["segment"][0].values == SEGMENTS.index("image")
    rows = ds["attention"][0].values[..., image]
    sliding = np.array([kind == "sliding" for kind in model.layer_kinds])
    assert ds["layer_kind"].values.tolist() == list(model.layer_kinds)
    assert np.isnan(rows[sliding]).all() and (rows[~sliding] > 0).all()


def test_gemma_picture_tokens_see_later_ones() -> None:
    model, inputs = built("gemma3")[0], prepared("gemma3", picture(0, (160, 160)))
    with torch.no_grad():
        rows = model(**inputs, output_attentions=True).attentions
    places = torch.nonzero(inputs["input_ids"][0] == model.config.image_token_id).flatten()
    for layer in (0, 3):
        assert (rows[layer][0, :, places[0], places[-1]] > 0).all()
        assert (rows[layer][0, :, places[0], places[-1] + 1 :] == 0).all()
