"""One batch through the model under an nnsight trace: rows, logits, residual stream and cache from a single prefill."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from interp.capture.attention import LAST, Rows
from interp.capture.selfcheck import SelfCheck
from interp.decoding import Run
from interp.encoding import Encoding
from interp.vlm import VLM


@dataclass(eq=False)
class Prefill:
    """What one prefill gives.

    Parameters
    ----------
    run
        The generation it began.
    outputs
        transformers' outputs: `attentions` per layer (batch, head, row, key) with the last prompt token as row 0, `logits` of the last
        position, and the cache if one was asked for.
    residual
        Per layer (batch, feature), the layer's own output at the last position; empty unless asked for. Some models add features of the
        picture to the stream between two of the first layers. They add them at the picture's tokens, so at the last position, which is
        never one, this also is what enters the next layer.
    """

    run: Run
    outputs: Any
    residual: list[torch.Tensor]


def prefill(
    vlm: VLM,
    encodings: Sequence[Encoding],
    *,
    rows: Sequence[Sequence[int]] | None = None,
    use_cache: bool = True,
    residual: bool = False,
    check: bool = False,
) -> Prefill:
    """Run a left-padded batch of prompts once and collect attention rows.

    Parameters
    ----------
    rows
        Per sample, prompt positions whose rows are wanted beside the last one's.
    use_cache
        Keep keys and values, to go on to an answer.
    residual
        Collect the residual stream.
    check
        Compare the rows with what the model itself computes from them.

    Raises
    ------
    CaptureError
        `check` failed: a row does not sum to one, or does not give the model's own attention output.
    """
    run = vlm.start(encodings, use_cache=use_cache)
    wanted = _request(encodings, rows, run.width, vlm.device)
    states: list[torch.Tensor] = []

    def keep(_: int, layer: Any) -> None:
        states.append(layer.output[:, -1].clone())

    # under an edit the check would compare the model with what is put in its place
    watch = SelfCheck(vlm.layers) if check and not vlm.edits else nullcontext()
    arguments = {**run.prefill_inputs(), "query_rows": wanted, "output_attentions": True, "logits_to_keep": 1}
    with watch:
        outputs = vlm.traced(run, arguments, keep if residual else None)
    if isinstance(watch, SelfCheck):
        watch.judge(vlm.dtype)
    return Prefill(run, outputs, states)


def _request(encodings: Sequence[Encoding], rows: Sequence[Sequence[int]] | None, length: int, device: torch.device) -> Rows:
    """Positions in the padded batch, the last prompt token first; samples with fewer rows repeat it."""
    if rows is None:
        return LAST
    most = max(len(positions) for positions in rows)
    padded = []
    for encoding, positions in zip(encodings, rows, strict=True):
        shifted = [length - len(encoding) + position for position in positions]
        padded.append([length - 1, *shifted, *[length - 1] * (most - len(positions))])
    return torch.as_tensor(padded, device=device)
