"""Where the answering model itself looks: attention on its own visual tokens, under any wording, in layers that reach the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.capture.forward import prefill
from interp.capture.record import captured_rows
from interp.methods.batch import Batch
from interp.vlm import VLM

_Floats = NDArray[np.floating]


def reaching_layers(vlm: VLM) -> tuple[int, ...]:
    """Layers whose attention is not cut off by a sliding window; all, where every layer's is."""
    full = tuple(layer for layer, kind in enumerate(vlm.layer_kinds) if kind == "full")
    return full or tuple(range(vlm.n_layers))


def middle_layer(vlm: VLM) -> int:
    """The layer that reaches the picture and is nearest to half of the depth."""
    return min(reaching_layers(vlm), key=lambda layer: abs(layer - vlm.n_layers // 2))


def visual(batch: Batch, index: int) -> NDArray[np.bool_]:
    """(token,) which tokens of the base prompt stand for a part of a picture."""
    return ~np.isnan(batch.facts[index].token_boxes[:, 0])


def visual_tokens(batch: Batch, index: int) -> xr.Dataset:
    """Those tokens of sample `index`, as `Batch.own_tokens` has them."""
    return batch.own_tokens(index).isel(token=visual(batch, index))


def last_rows(batch: Batch, layer: int) -> Sequence[_Floats]:
    """Per sample, (token,): attention of the last prompt token on the visual tokens, base prompt, mean over the heads of one layer."""
    return [_mean(rows[layer][:, visual(batch, k)]) for k, rows in enumerate(batch.own_attention)]


def last_rows_under(batch: Batch, prompt: str, layer: int) -> Sequence[_Floats]:
    """The same under another wording, which takes a prefill of its own."""
    encodings = [batch.vlm.encode(sample, prompt) for sample in batch.samples]
    first = prefill(batch.vlm, encodings, use_cache=False)
    batch.processed({encoding.sample_id: len(encoding) for encoding in encodings})
    found = []
    for k, (sample, encoding) in enumerate(zip(batch.samples, encodings, strict=True)):
        rows = captured_rows(batch.vlm, sample.id, encoding, first, k)[layer, :, 0]
        found.append(_mean(rows[:, ~np.isnan(encoding.token_boxes[:, 0])]))
    return found


def answer_rows(batch: Batch, layer: int) -> Sequence[_Floats | None]:
    """Per sample, (token,): attention on the visual tokens, mean over the answer's tokens and the heads of one layer; None where the
    answer is empty.
    """
    found: list[_Floats | None] = []
    for k, rows in enumerate(batch.spoken):
        seen = visual(batch, k)
        found.append(np.mean([_mean(row[layer][:, : len(seen)][:, seen]) for row in rows], axis=0) if rows else None)
    return found


def _mean(rows: _Floats) -> _Floats:
    """(token,) over heads; a token that none reaches has no attention."""
    return np.nan_to_num(rows.astype(np.float64)).mean(axis=0)
