"""How TransformerLens reads the language side of any model of this package: what a decoder layer holds is looked up in the layer itself.

TransformerLens has an adapter per architecture, and none for several of ours; its own also want the vision tower to be one they know.
All our decoders are built of the same parts under the same names, so one adapter serves them all.
"""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    RMSNormalizationBridge,
    RotaryEmbeddingBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.position_embeddings_attention import PositionEmbeddingsAttentionBridge

from interp.errors import ModelError

ARCHITECTURE = "InterpLanguageSide"  # a name of our own: TransformerLens's adapters stay as they are

_NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
# a layer that also normalises what attention and MLP give calls the norm after its attention what others call the one before their MLP
_SANDWICH = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_MLP = ("gate_proj", "up_proj", "down_proj")


class LanguageSide(ArchitectureAdapter):
    """The decoder of a vision-language model; its vision tower runs as it is, without hooks."""

    _testing_lm_attr = "model.language_model"
    _testing_eager = None  # eager attention is for whoever makes the model to choose: the vision tower keeps its own

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.is_multimodal = True
        self._set_rms_rotary_defaults()
        self.cfg.default_prepend_bos = False  # prompts come with every token they need
        self.weight_processing_conversions = {**self._qkvo_weight_conversions()}

    def map_components(self, model: Any) -> None:
        """Say which module is which, from the modules that are there.

        Raises
        ------
        ModelError
            A decoder layer is not built of the parts that are known.
        """
        decoder = model.model.language_model
        layer = decoder.layers[0]
        norms = _SANDWICH if hasattr(layer, "pre_feedforward_layernorm") else _NORMS
        _check_parts(layer, norms)
        self.cfg.rmsnorm_uses_offset = adds_one(layer.input_layernorm)
        attention = {name: LinearBridge(name=of) for name, of in _ATTENTION.items()}
        attention |= {name: self._norm(name) for name in ("q_norm", "k_norm") if hasattr(layer.self_attn, name)}
        self.component_mapping = {
            "embed": EmbeddingBridge(name="model.language_model.embed_tokens"),
            "rotary_emb": RotaryEmbeddingBridge(name="model.language_model.rotary_emb"),
            "blocks": BlockBridge(
                name="model.language_model.layers",
                submodules={
                    **{name: self._norm(of) for name, of in norms.items()},
                    "attn": self._attention(model, attention),
                    "mlp": self._gated_mlp(),
                },
            ),
            "ln_final": self._norm("model.language_model.norm"),
            "unembed": UnembeddingBridge(name="lm_head", config=self.cfg),
        }

    def _norm(self, name: str) -> RMSNormalizationBridge:
        return RMSNormalizationBridge(name=name, config=self.cfg)

    def _attention(self, model: Any, parts: dict[str, Any]) -> AttentionBridge:
        """TransformerLens's own attention, whose scores and patterns can be edited; the model's where positions have several axes,
        which it does not reconstruct.
        """
        rotary = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
        if "mrope_section" not in rotary:
            return PositionEmbeddingsAttentionBridge(name="self_attn", config=self.cfg, submodules=parts)
        return AttentionBridge(
            name="self_attn", config=self.cfg, submodules=parts, maintain_native_attention=True, requires_attention_mask=True
        )


def register() -> None:
    """Make `ARCHITECTURE` known to TransformerLens."""
    ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, LanguageSide)


@torch.no_grad()
def adds_one(norm: Any) -> bool:
    """Whether an RMS norm scales by one plus its weight, found by trying it.

    Raises
    ------
    ModelError
        It scales by neither that nor its weight.
    """
    weight = norm.weight.detach().float()
    scaled = norm(torch.ones_like(norm.weight)).float()
    gaps = [float((scaled - weight - offset).abs().max()) for offset in (0, 1)]
    if min(gaps) > 0.01 * (1 + float(scaled.abs().max())):  # half-precision norms round
        raise ModelError(
            f"Norm {type(norm).__name__} does not scale by its weight, so TransformerLens cannot be bridged to it; use the functions of "
            "interp.interventions, which do not need it."
        )
    return gaps[1] < gaps[0]


def _check_parts(layer: Any, norms: dict[str, str]) -> None:
    wanted = {layer: [*norms.values(), "self_attn", "mlp"], layer.self_attn: list(_ATTENTION.values()), layer.mlp: list(_MLP)}
    missing = [name for part, names in wanted.items() for name in names if not hasattr(part, name)]
    if missing:
        raise ModelError(
            f"Decoder layer {type(layer).__name__} has no {missing[0]!r}, so TransformerLens cannot be bridged to it; use the "
            "functions of interp.interventions, which do not need it."
        )
