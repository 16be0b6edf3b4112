"""TransformerLens on the live model: its hooks on the same weights, and the model itself left as it is."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interp.errors import ModelError
from interp.vlm import VLM

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridge(vlm: VLM) -> TransformerBridge:
    """The model as TransformerLens sees it, for hooks on the language side (``blocks.3.attn.hook_z`` and so on).

    Modules are new and parameters shared, so it takes no further memory for weights, and nothing that is done to the bridge's modules
    (hooks, eager attention) reaches the model. Weights are raw: nothing is folded or centred. Edits of `hook_pattern` act on the run
    except where the model's rotary positions have several axes; there TransformerLens warns that they do not.

    Parameters
    ----------
    vlm
        The model.

    Returns
    -------
    TransformerBridge
        Run it with a prompt's whole inputs, pictures included: ``bridge(ids, **others)``, with `ids` the ``input_ids`` of
        ``vlm.batch([vlm.encode(sample)])`` and `others` the rest. Utilities of TransformerLens that take tokens alone would leave the
        pictures out.

    Raises
    ------
    ModelError
        transformer-lens is not installed, or the decoder's layers are not built of the parts that are known.
    """
    vlm.refuse_edits("bridge")
    with _quietly_imported():
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        from interp.circuits.adapter import ARCHITECTURE, register
    register()
    twin = _sharing(vlm.hf_model)
    return build_bridge_from_module(
        twin,
        ARCHITECTURE,
        hf_config=twin.config,
        model_name=vlm.name,
        post_adapter_hook=lambda adapter: adapter.map_components(twin),  # type: ignore[attr-defined]
    )


def _sharing(model: Any) -> Any:
    """A second tree of modules over the same tensors."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    twin.set_attn_implementation({"text_config": "eager"})  # the only one that shows a whole pattern; the configuration is the twin's own
    return twin


@contextmanager
def _quietly_imported() -> Iterator[None]:
    """TransformerLens's import turns transformers' log messages down for the whole process: turn them up again."""
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("transformer_lens"):
            raise ModelError(
                "Circuits need TransformerLens, which is not installed; run pip install 'transformer-lens>=4.3,<5'."
            ) from error
        raise
    finally:
        logger.setLevel(level)
