"""Beginning with another organism's weights: what fits is taken over, and what a decoder has besides is set so that it changes least.

A decoder that already finds a card by its colour and says what is on it only has to learn where another tower puts what it sees.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.benchmarks.digits import load
from interp.errors import OrganismError
from interp.loading import load_vlm

_DECODER = "model.language_model."
_EMBEDDING, _LAST_NORM = f"{_DECODER}embed_tokens.weight", f"{_DECODER}norm.weight"
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.(.+)")
_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_PICTURES = 8  # the donor's scales are measured on so many training pictures
_RIDGE = 1e-4  # of the mean square of a feature
_FITTED = 64  # pictures that a projection is fitted on
_TOWER = "model.vision_tower."
_ENTRANCE = f"{_TOWER}pre_layrnorm"
# What the donor's tower calls the parts of another kind of tower.
_CALLED = {
    ".encoder.layer.": ".encoder.layers.",
    ".attention.projection_layer.": ".self_attn.out_proj.",
    ".attention.": ".self_attn.",
    ".layernorm_before.": ".layer_norm1.",
    ".layernorm_after.": ".layer_norm2.",
}


@torch.no_grad()
def transplant(model: Any, tokenizer: Any, donor: Path, *, tower: bool = True) -> list[str]:
    """Give `model` the weights of the organism in folder `donor` wherever both have the same parameter of the same shape; without
    `tower`, those of the decoder only.

    Words are matched by their text. Where the decoder has what the donor's has not: biases begin at zero; norms of queries and keys, and
    norms after a block, at the scale that the donor's own have there on training pictures; norms that add one to their weight at one less.

    Returns
    -------
    list of str
        The parameters taken over.

    Raises
    ------
    OrganismError
        The decoders differ in depth or width.
    """
    source = load_vlm(donor)
    mine, theirs = model.config.get_text_config(), source.hf_model.config.get_text_config()
    differing = [key for key in _SIZES if getattr(mine, key) != getattr(theirs, key)]
    if differing:
        raise OrganismError(f"Organism {donor.name!r} has another {', '.join(differing)}; begin with one of the same decoder, or without.")
    given = dict(source.hf_model.named_parameters())
    own = dict(model.named_parameters())
    more = 1.0 if float(own[_LAST_NORM].abs().max()) == 0.0 else 0.0  # norms that begin at 0 scale by 1 + weight
    scales = _scales(source)
    taken = []
    for name, value in own.items():
        spoken = name.startswith(_DECODER)
        if not (spoken or tower):
            continue
        found = given.get(_theirs(name, own) if spoken else _tower_s(name))
        if name == _EMBEDDING:
            _words(value, given[_EMBEDDING], tokenizer, source.processor.tokenizer)
        elif found is not None and found.shape == value.shape:
            value.copy_(found - more if spoken and "norm" in name else found)
        elif spoken and name.endswith("_proj.bias"):
            value.zero_()
        elif spoken and name in scales:
            value.copy_(scales[name] - more)
            continue
        else:
            continue
        taken.append(name)
    if tower and f"{_ENTRANCE}.weight" not in own:
        taken += _entrance(own, source, given)
        _join(model, own, source)
    scale = float(getattr(model.get_input_embeddings(), "scalar_embed_scale", 1.0))
    own[_EMBEDDING].div_(scale)  # scaled up when read; at the output the last norm makes up for it
    own[_LAST_NORM].copy_((own[_LAST_NORM] + more) * scale - more)
    return taken


def _theirs(name: str, own: dict[str, nn.Parameter]) -> str:
    """The donor's name of a parameter: with four norms a layer, the one before the second block is called otherwise."""
    found = _LAYER.fullmatch(name)
    if found is None or f"{_DECODER}layers.{found[1]}.pre_feedforward_layernorm.weight" not in own:
        return name
    part = {"pre_feedforward_layernorm.weight": "post_attention_layernorm.weight", "post_attention_layernorm.weight": ""}
    return f"{_DECODER}layers.{found[1]}.{part.get(found[2], found[2])}"


def _tower_s(name: str) -> str:
    for mine, theirs in _CALLED.items():
        name = name.replace(mine, theirs)
    return name


def _entrance(own: dict[str, nn.Parameter], source: Any, given: dict[str, torch.Tensor]) -> list[str]:
    """Patches and positions of a tower that does not normalise them: the donor's norm is folded into both, at the scale that it divides
    by on the mean over training pictures. Of a smaller grid of patches the positions are those of the donor's upper left.
    """
    kept: list[torch.Tensor] = []
    handle = source.hf_model.model.vision_tower.pre_layrnorm.register_forward_pre_hook(lambda _, args: kept.append(args[0].float()))
    for sample in load("train", _PICTURES):
        source.hf_model(**source.encode(sample).inputs)
    handle.remove()
    spread = torch.cat(kept)[:, 1:].std(-1, correction=0).mean()
    weight, bias = given[f"{_ENTRANCE}.weight"], given[f"{_ENTRANCE}.bias"]

    def folded(values: torch.Tensor) -> torch.Tensor:
        return (values - values.mean(-1, keepdim=True)) * weight / spread

    kernel, places, first = (
        given[f"{_TOWER}embeddings.{name}"] for name in ("patch_embedding.weight", "position_embedding.weight", "class_embedding")
    )
    side = math.isqrt(len(places) - 1)
    grid = folded(places[1:]).unflatten(0, (side, side))
    made = {
        "patch_embedding.weight": folded(kernel.movedim(0, -1)).movedim(-1, 0),
        "patch_embedding.bias": bias,
        "cls_token": nn.functional.layer_norm(first + places[0], first.shape, weight, bias),
    }
    taken = []
    for name, value in own.items():
        part = name.removeprefix(f"{_TOWER}embeddings.").replace("patch_embeddings.projection.", "patch_embedding.")
        if part in made:
            value.copy_(made[part].reshape(value.shape))
        elif part in ("position_embedding.weight", "position_embeddings"):
            mine = value.view(-1, value.shape[-1])
            smaller = math.isqrt(len(mine))
            mine.zero_()
            mine[len(mine) - smaller**2 :] = grid[:smaller, :smaller].flatten(0, 1)
        else:
            continue
        taken.append(name)
    return taken


def _join(model: Any, own: dict[str, nn.Parameter], source: Any) -> None:
    """What leads from the tower to the decoder, where the donor has it otherwise: a norm at the scale of the donor's last states, and one
    matrix in the place of its two layers by least squares on training pictures.
    """
    norm, matrix = (own.get(f"model.multi_modal_projector.{name}") for name in ("layer_norm.weight", "mm_input_projection_weight"))
    if norm is None and matrix is None:
        return
    images = source.processor.image_processor
    pixels = images([sample.open_images()[0] for sample in load("train", _FITTED)], return_tensors="pt")["pixel_values"]
    theirs = source.hf_model.model
    states = theirs.vision_tower(pixels).last_hidden_state[:, 1:]
    if norm is not None:
        norm.fill_(states.std(-1, correction=0).mean())
    if matrix is not None:
        mine = model.model.multi_modal_projector.mm_soft_emb_norm(model.model.vision_tower(pixels).last_hidden_state)
        # A ridge, in double and kept in half precision: some directions hardly vary, and the last bits of a solution depend on where in
        # memory its parts lie, and what is trained from it would depend on them.
        given, wanted = (each.flatten(0, 1).double() for each in (mine, theirs.multi_modal_projector(states)))
        ridge = _RIDGE * given.square().sum(0).mean() * torch.eye(given.shape[1], dtype=given.dtype)
        matrix.copy_(torch.linalg.solve(given.T @ given + ridge, given.T @ wanted).half())


def _words(mine: torch.Tensor, theirs: torch.Tensor, tokenizer: Any, donor: Any) -> None:
    known = donor.get_vocab()
    for word, place in tokenizer.get_vocab().items():
        if word in known:
            mine[place] = theirs[known[word]]


def _scales(source: Any) -> dict[str, torch.Tensor]:
    """Root mean squares in the donor's decoder on training pictures, under the names of the norms that would set them.

    Of queries and keys per dimension (head width,), over heads; of what a block adds to the residual stream, one figure per block.
    """
    sums: dict[str, list[torch.Tensor]] = {}
    width = source.layers[0].self_attn.head_dim
    handles = []
    for k, layer in enumerate(source.layers):
        at = f"{_DECODER}layers.{k}"
        watched = {
            f"{at}.self_attn.q_norm.weight": (layer.self_attn.q_proj, width),
            f"{at}.self_attn.k_norm.weight": (layer.self_attn.k_proj, width),
            f"{at}.post_attention_layernorm.weight": (layer.self_attn.o_proj, 1),
            f"{at}.post_feedforward_layernorm.weight": (layer.mlp.down_proj, 1),
        }
        for name, (module, size) in watched.items():
            kept = sums.setdefault(name, [])
            handles.append(
                module.register_forward_hook(
                    lambda _, __, out, kept=kept, size=size: kept.append(out.float().square().reshape(-1, size).mean(0))
                )
            )
    for sample in load("train", _PICTURES):
        source.hf_model(**source.encode(sample).inputs)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(values).mean(0).sqrt() for name, values in sums.items()}
