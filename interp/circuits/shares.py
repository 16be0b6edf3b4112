"""Exact direct logit attribution of one prompt: what every part of the decoder writes, as its share of one logit.

The stream that a logit is read from is a sum, and its final norm divides the whole by one number, so every part has a share of its own:
each head's is ``z W_O g u``, with `g` what the norms do to it and `u` the token's row of the output layer. A head's part is itself a
sum, over the tokens it looks at: ``A[q, s] v_s W_O g u``. Nothing is folded into the weights and nothing is centred. Per-head outputs in
the stream's width are never formed: `W_O` is first multiplied by the one direction that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.errors import InterpError, ModelError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_Floats = NDArray[np.float32]

# Part of the shares' magnitudes that rounding may take; half precision rounds the stream after every layer.
_ROUNDING, _HALF_ROUNDING = 1e-4, 0.05


@dataclass(frozen=True, eq=False)
class Contributions:
    """Shares of one logit (or difference of two) at one position.

    Parameters
    ----------
    head
        (layer, head).
    mlp, attention_bias, between
        (layer,) the MLP's, that of the attention's output bias, and that of what the model adds to the stream between this layer and the
        next (vision features, in some).
    embed, unembed_bias
        What enters the first layer, and the output layer's own bias.
    attention, write
        (layer, head, token): the position's attention, and the share of each source token in what the head writes, which sums to `head`.
    logit
        What the output layer gives: the sum of all, but for rounding.
    """

    head: _Floats
    mlp: _Floats
    attention_bias: _Floats
    between: _Floats
    embed: float
    unembed_bias: float
    attention: _Floats
    write: _Floats
    logit: float

    @property
    def total(self) -> float:
        """The sum of all shares."""
        parts = (self.head, self.mlp, self.attention_bias, self.between)
        return float(sum(part.sum(dtype=np.float64) for part in parts)) + self.embed + self.unembed_bias

    @property
    def magnitude(self) -> float:
        """The sum of all shares' magnitudes."""
        parts = (self.head, self.mlp, self.attention_bias, self.between)
        return float(sum(np.abs(part).sum(dtype=np.float64) for part in parts)) + abs(self.embed) + abs(self.unembed_bias)


@torch.no_grad()
def contributions(
    bridge: TransformerBridge, inputs: Mapping[str, Any], token: int, foil: int | None = None, position: int = -1
) -> Contributions:
    """Split a token's logit, or its difference to a foil's, into what wrote it.

    Parameters
    ----------
    bridge
        As `interp.circuits.bridge` gives it.
    inputs
        The model's keyword arguments for one prompt (batch of one), ``input_ids`` and pictures included.
    token, foil
        Ids; without a foil the token's logit alone.
    position
        The position that is read; negative ones count from the end.

    Raises
    ------
    InterpError
        The batch holds several prompts, or has no such position.
    ModelError
        The shares do not add up to the logit: the model's decoder does more than its parts say.
    """
    others = dict(inputs)
    ids = others.pop("input_ids")
    if len(ids) != 1 or not -ids.shape[1] <= position < ids.shape[1]:
        raise InterpError(f"Position {position} of inputs {tuple(ids.shape)} cannot be attributed; give one prompt, and a position in it.")
    position %= ids.shape[1]
    seen = _run(bridge, ids, others, position)
    direction = _direction(bridge, token, foil) * _gain(bridge.ln_final, seen["ln_final.hook_scale"], bridge)
    layers = [_layer(bridge, seen, layer, direction) for layer in range(bridge.cfg.n_layers)]
    logits = seen["unembed.hook_out"]
    bias = bridge.b_U.float()
    found = Contributions(
        **{name: _numpy(torch.stack([layer[name] for layer in layers])) for name in layers[0]},
        embed=float(seen["blocks.0.hook_resid_pre"] @ direction),
        unembed_bias=float(bias[token] - (bias[foil] if foil is not None else 0)),
        logit=float(logits[token] - (logits[foil] if foil is not None else 0)),
    )
    _check(found, bridge)
    return found


def _run(bridge: TransformerBridge, ids: torch.Tensor, others: Mapping[str, Any], position: int) -> dict[str, torch.Tensor]:
    """Activations by hook name, float32, at the position; values of every token. Copies, so that no layer's whole activations live on."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, *at: int | slice) -> tuple[str, Any]:
        def hook(value: torch.Tensor, hook: Any) -> None:
            seen[name] = value[(0, *at)].to(torch.float32, copy=True)

        return name, hook

    # logits are asked for at this one position
    hooks: list[Any] = [keep("ln_final.hook_in", position), keep("ln_final.hook_scale", position), keep("unembed.hook_out", 0)]
    for layer, block in enumerate(bridge.blocks):
        name = f"blocks.{layer}."
        hooks += [keep(name + of, position) for of in ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z")]
        hooks += [keep(name + "attn.hook_pattern", slice(None), position), keep(name + "attn.hook_v")]
        if "ln1_post" in block._modules:
            hooks.append(keep(name + "ln1_post.hook_scale", position))
    at = torch.tensor([position], device=ids.device)
    bridge.run_with_hooks(ids, fwd_hooks=hooks, logits_to_keep=at, **others)
    return seen


def _layer(bridge: TransformerBridge, seen: Mapping[str, torch.Tensor], layer: int, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    block, name = bridge.blocks[layer], f"blocks.{layer}."
    last = layer + 1 == bridge.cfg.n_layers
    following = seen["ln_final.hook_in" if last else f"blocks.{layer + 1}.hook_resid_pre"]
    # where the layer also normalises what its attention gives, a head's output goes through that norm too
    sandwiched = "ln1_post" in block._modules
    through = direction * _gain(block.ln1_post, seen[name + "ln1_post.hook_scale"], bridge) if sandwiched else direction
    reading = torch.einsum("hdm,m->hd", block.attn.W_O.float(), through)
    value = seen[name + "attn.hook_v"]
    value = value.repeat_interleave(reading.shape[0] // value.shape[1], dim=1)  # grouped heads share their values
    attention = seen[name + "attn.hook_pattern"]
    bias = block.attn.b_O
    return {
        "head": (seen[name + "attn.hook_z"] * reading).sum(-1),
        "mlp": seen[name + "hook_mlp_out"] @ direction,
        "attention_bias": bias.float() @ through if bias is not None else direction.new_zeros(()),
        "between": (following - seen[name + "hook_resid_post"]) @ direction,
        "attention": attention,
        "write": attention * torch.einsum("shd,hd->hs", value, reading),
    }


def _direction(bridge: TransformerBridge, token: int, foil: int | None) -> torch.Tensor:
    unembed = bridge.W_U
    wanted = unembed[:, token].float()
    return wanted - unembed[:, foil].float() if foil is not None else wanted


def _gain(norm: Any, scale: torch.Tensor, bridge: TransformerBridge) -> torch.Tensor:
    """What an RMS norm multiplied each feature by at the position."""
    weight = norm.weight.float()
    return (weight + 1 if bridge.cfg.rmsnorm_uses_offset else weight) / scale


def _check(found: Contributions, bridge: TransformerBridge) -> None:
    rounding = _HALF_ROUNDING if bridge.cfg.dtype.itemsize < 4 else _ROUNDING
    if not abs(found.total - found.logit) <= rounding * max(found.magnitude, 1.0):
        raise ModelError(
            f"What the parts of {bridge.cfg.model_name!r} write adds up to {found.total:.4g}, not to the logit {found.logit:.4g}: its "
            "decoder adds or scales something that attribution does not know; take hooks off the model, or use interp.interventions."
        )


def _numpy(values: torch.Tensor) -> _Floats:
    return values.cpu().numpy().astype(np.float32)
