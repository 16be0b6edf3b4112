"""Beginning with another organism's weights: what fits is taken over, and what a decoder has besides is set so that it changes least.

A decoder that already finds a card by its colour and says what is on it only has to learn where another tower puts what it sees.
"""

from __future__ import annotations

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
        found = given.get(_theirs(name, own))
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
