"""A small model in which one known head carries the answer: what a causal study of heads must find.

The picture is a grey field with one card, red or blue. In one head of one layer the last prompt token attends to the card's tokens and
copies their colour to where the output layer reads it; every other head and every MLP writes weak noise that the colour words hardly
hear. So the head's output decides between ``red`` and ``blue``, it comes from the evidence tokens, and it travels through the last
position alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.errors import InterpError
from interp.testing.models import tiny_vlm
from interp.vlm import VLM

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
_GREY = (128, 128, 128)
_CELL, _CELLS = 7, 4  # pixels of a visual token's edge, tokens of the picture's edge
_QUESTION = "what colour is the card ?"
# Meanings of the residual stream's first features. Noise is written behind them only.
_RED, _BLUE, _CARD, _GROUND, _TEXT, _SAY_RED, _SAY_BLUE, _SAID = range(8)
_KNOWN = 8


def carrying_head(
    layer: int = 2, head: int = 1, n: int = 4, seed: int = 0, noise: float = 0.1
) -> tuple[VLM, tuple[int, int], list[Sample]]:
    """A model of 4 layers and 4 heads over 2 key-value heads whose answer one head carries, and questions that it answers right.

    Parameters
    ----------
    layer, head
        The carrying head.
    n
        Number of samples. Samples ``2 k`` and ``2 k + 1`` are alike but for the card's colour, red and then blue, so that they are a
        clean and a corrupted run of each other. The card covers two by two visual tokens exactly and is marked as evidence.
    seed
        Draws the noise and the cards' places.
    noise
        Size of what the other heads and the MLPs write, against that of a random model.

    Returns
    -------
    tuple of VLM, (layer, head), list of Sample
        The model answers every sample with its reference. Without that head's output at the last prompt position (set to zero) the
        logits of ``red`` and ``blue`` differ by noise only.

    Raises
    ------
    InterpError
        The model has no such head.
    """
    vlm = tiny_vlm("llava", seed)
    if not (0 <= layer < vlm.n_layers and 0 <= head < vlm.n_heads):
        raise InterpError(
            f"Head {head} of layer {layer} cannot carry the answer: the model has {vlm.n_layers} layers and {vlm.n_heads} heads."
        )
    with torch.no_grad():
        _see_colours(vlm.hf_model)
        _hush(vlm.hf_model, noise)
        _carry(vlm.layers[layer].self_attn, head)
        _read_out(vlm)
    vlm.revision = f"carrying-{layer}-{head}-{seed}-{noise:g}"  # the weights are no longer those that the revision was a digest of
    return vlm, (layer, head), _samples(n, seed)


def _see_colours(model: Any) -> None:
    """Vision without mixing, and a projector solved so that a token says: red card, blue card, or ground."""
    tower = model.model.vision_tower
    for block in tower.encoder.layers:
        for part in (block.self_attn.out_proj, block.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    tower.embeddings.position_embedding.weight.zero_()
    out = model.model.multi_modal_projector.linear_2
    out.weight.copy_(torch.eye(*out.weight.shape))
    out.bias.zero_()
    patches = torch.stack([_normalised(colour) for colour in (*COLOURS.values(), _GREY)])
    features = model.get_image_features(pixel_values=patches).pooler_output
    seen = torch.stack([each[0] for each in features])  # a picture of one colour has equal tokens
    wanted = torch.zeros(3, out.out_features)
    wanted[0, [_RED, _CARD]] = wanted[1, [_BLUE, _CARD]] = wanted[2, _GROUND] = 1.0
    out.weight.copy_((torch.linalg.pinv(seen) @ wanted).T)


def _normalised(colour: tuple[int, int, int]) -> torch.Tensor:
    """Pixel values (3, y, x) of a picture of one colour, as the processor's default gives them."""
    edge = _CELL * _CELLS
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((torch.tensor(colour) / 255 - mean) / std)[:, None, None].expand(3, edge, edge)


def _hush(model: Any, noise: float) -> None:
    """Plain norms; words, heads and MLPs are weak noise beside the features with a meaning."""
    text = model.model.language_model
    for block in text.layers:
        block.input_layernorm.weight.fill_(1.0)
        block.post_attention_layernorm.weight.fill_(1.0)
        for writer in (block.self_attn.o_proj, block.mlp.down_proj):
            writer.weight.mul_(noise)
            writer.weight[:_KNOWN] = 0.0
    text.norm.weight.fill_(1.0)
    words = text.embed_tokens.weight
    words.mul_(0.1)
    words[:, :_KNOWN] = 0.0
    words[:, _TEXT] = 1.0


def _carry(attention: Any, head: int) -> None:
    """Every text token asks for cards; the head copies their colour. Only the slowest rotary pair is used, so distance does not matter."""
    width = attention.head_dim
    slowest = width // 2 - 1
    group = head // attention.num_key_value_groups
    mine, shared = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
    attention.q_proj.weight[mine] = 0.0
    attention.q_proj.weight[mine.start + slowest, _TEXT] = 2.0
    attention.k_proj.weight[shared] = 0.0
    attention.k_proj.weight[shared.start + slowest, _CARD] = 2.0
    attention.v_proj.weight[shared] = 0.0
    attention.o_proj.weight[:, mine] = 0.0
    for place, (seen, said) in enumerate([(_RED, _SAY_RED), (_BLUE, _SAY_BLUE)]):
        attention.v_proj.weight[shared.start + place, seen] = 1.0
        attention.o_proj.weight[said, mine.start + place] = 1.0


def _read_out(vlm: VLM) -> None:
    """Colour words read what the head says, and once one is said the answer ends."""
    tokenizer, out = vlm.processor.tokenizer, vlm.hf_model.lm_head.weight
    red, blue, end = tokenizer.convert_tokens_to_ids(["red", "blue", tokenizer.eos_token])
    out.mul_(0.1)
    out[:, :_KNOWN] = 0.0
    out[red, _SAY_RED] = out[blue, _SAY_BLUE] = 2.0
    out[end, _SAID] = 4.0
    vlm.hf_model.model.language_model.embed_tokens.weight[[red, blue], _SAID] = 8.0


def _samples(n: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    edge = _CELL * _CELLS
    made = []
    for pair in range((n + 1) // 2):
        x, y = (int(v) * _CELL for v in rng.integers(0, _CELLS - 1, 2))
        box = (x, y, x + 2 * _CELL, y + 2 * _CELL)
        for colour, shade in COLOURS.items():
            picture = Image.new("RGB", (edge, edge), _GREY)
            picture.paste(shade, box)
            name = f"card-{pair}-{colour}"
            knobs = {"colour": colour, "pair": pair}
            made.append(Sample(name, picture, _QUESTION, colour, boxes=[box], image_id=name, dataset="carrier", split="test", knobs=knobs))
    return made[:n]
