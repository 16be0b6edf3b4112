"""Forward passes of training: pictures are read once and their keys shared by all rows about them, in every architecture alike.

The pictures' part runs through the whole model as transformers has it (positions, masks and all); the rows then continue in the decoder
with explicit masks and positions, which is where edges from the question to the pictures can be cut.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from interp.organisms.batches import Batch
from interp.organisms.layout import Layout


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass leaves: last hidden `states` (row, t, width); projected `features` (visual token of all pictures, width); and, if asked
    for, per layer the `attentions` (row, head, t, visual token) of a row with its own picture.
    """

    states: torch.Tensor
    features: torch.Tensor
    attentions: tuple[torch.Tensor, ...] = ()


class Passes:
    """Runs batches through a model."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self._takes = set(inspect.signature(model.model.get_image_features).parameters)
        text = model.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or []
        self._window = int(text.sliding_window) if "sliding_attention" in kinds else None

    def features(self, pictures: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projected visual tokens (visual token of all pictures, width), without running the decoder."""
        known = {name: value for name, value in pictures.items() if name in self._takes}
        features = self.model.model.get_image_features(**known, return_dict=True).pooler_output
        return torch.cat(list(features)) if isinstance(features, list | tuple) else features.flatten(0, 1)

    def __call__(self, batch: Batch, *, attend: tuple[int, ...] = ()) -> Seen:
        """Hidden states of a batch's rows, with the attention of layers `attend`."""
        assert batch.ids is not None
        kinds = self.layout.kinds
        if batch.prefix is None:
            with self._inserted(batch.ids) as inserted:
                out = self.model.model(
                    input_ids=batch.ids, **batch.pictures, **kinds(batch.ids), use_cache=False, output_attentions=bool(attend)
                )
            return Seen(out.last_hidden_state, inserted[0], self._on_pictures(out, attend, batch.ids))
        cache = DynamicCache()
        with self._inserted(batch.prefix) as inserted:
            self.model.model(input_ids=batch.prefix, **batch.pictures, **kinds(batch.prefix), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch.ids) // len(batch.prefix))
        out = self.model.model.language_model(
            inputs_embeds=self.model.get_input_embeddings()(batch.ids),
            attention_mask=self._masks(batch),
            position_ids=self._positions(batch),
            past_key_values=cache,
            output_attentions=bool(attend),
        )
        return Seen(out.last_hidden_state, inserted[0], self._on_pictures(out, attend, batch.prefix[:1]))

    @contextmanager
    def _inserted(self, ids: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Catches the visual tokens as the decoder receives them."""
        found: list[torch.Tensor] = []

        def catch(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
            found.append(kwargs["inputs_embeds"][ids == self.layout.image_token_id])

        handle = self.model.model.language_model.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            yield found
        finally:
            handle.remove()

    def _on_pictures(self, out: Any, attend: tuple[int, ...], ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The columns of the visual tokens; `ids` (row or 1, t) are those of the keys."""
        if not attend:
            return ()
        visual = torch.nonzero(ids == self.layout.image_token_id)[:, 1].view(len(ids), 1, 1, -1)
        weights = [out.attentions[layer] for layer in attend]
        return tuple(w.gather(-1, visual.expand(len(w), *w.shape[1:3], visual.shape[-1])).float() for w in weights)

    def _masks(self, batch: Batch) -> Any:
        assert batch.ids is not None and batch.prefix is not None and batch.readers is not None
        before, length, closed = batch.prefix.shape[1], batch.ids.shape[1], torch.finfo(torch.float32).min
        mask = torch.zeros(len(batch.ids), 1, length, before + length)
        mask[..., before:] = torch.full((length, length), closed).triu(1)
        # Whatever follows the first visual token may have read it: the line break between two pictures is hidden as well.
        seen = (batch.prefix[0] == self.layout.image_token_id).cumsum(0) > 0
        blind = ~batch.readers[:, None, :, None] & seen
        mask[..., :before].masked_fill_(blind, closed)
        if self._window is None:
            return mask
        distance = torch.arange(before, before + length)[:, None] - torch.arange(before + length)
        near = mask.masked_fill(distance >= self._window, closed)
        return {"full_attention": mask, "sliding_attention": near}

    def _positions(self, batch: Batch) -> torch.Tensor:
        assert batch.ids is not None and batch.prefix is not None
        before, length = batch.prefix.shape[1], batch.ids.shape[1]
        positions = torch.arange(before, before + length)[None]
        deltas = getattr(self.model.model, "rope_deltas", None)
        if deltas is None:
            return positions
        return (positions + deltas[:1]).expand(3, len(batch.ids), length)  # words count on from the largest position in the pictures
