"""What one sample leaves behind, as numpy: the unit that is padded into a dataset, or written to a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from interp import answers
from interp.benchmarks.sample import Sample
from interp.capture.answering import entropy
from interp.capture.facts import Facts
from interp.capture.forward import Prefill
from interp.capture.reach import mark_unreachable
from interp.capture.selfcheck import SUM_TOLERANCE
from interp.encoding import Encoding
from interp.errors import CaptureError
from interp.geometry import Visibility
from interp.vlm import VLM

_Floats = NDArray[np.floating]


@dataclass(eq=False)
class Record:
    """One traced sample. What it is made of (sample, encoding, digests) is kept as light `facts` only.

    Parameters
    ----------
    sample, encoding
        What was asked, and as which tokens.
    sha256
        Digest of each picture's pixels; computed where None.
    attention
        (layer, head, token) float32.
    coverage, visibility
        As in `Facts`; computed where None.
    scores
        Numbers by name.
    rows, row_positions
        (layer, head, query, key) float32 and (query,) positions of further rows, if they were asked for.
    residual
        (layer, feature) float32, if it was asked for.
    prediction, answer_ids
        The answer; empty where none was made.
    """

    sample: InitVar[Sample]
    encoding: InitVar[Encoding]
    sha256: InitVar[tuple[str, ...] | None]
    attention: _Floats
    coverage: InitVar[_Floats | None] = None
    visibility: InitVar[Visibility | None] = None
    scores: dict[str, float] = field(default_factory=dict)
    rows: _Floats | None = None
    row_positions: NDArray[np.int64] | None = None
    residual: _Floats | None = None
    prediction: str | None = None
    answer_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    facts: Facts = field(init=False)

    def __post_init__(
        self,
        sample: Sample,
        encoding: Encoding,
        sha256: tuple[str, ...] | None,
        coverage: _Floats | None,
        visibility: Visibility | None,
    ) -> None:
        self.facts = Facts.of(sample, encoding, sha256, coverage, visibility)

    def answer(self, text: str, ids: NDArray[np.int64]) -> None:
        """Keep the answer and score it against the references."""
        self.prediction, self.answer_ids = text, ids
        for name, score in answers.SCORES.items():
            self.scores[name] = score(text, self.facts.references)

    def keep_answer_rows(self, steps: Sequence[_Floats]) -> None:
        """Keep one row per answer token, (layer, head, key) each, of growing length."""
        length = len(self.facts)
        self.row_positions = np.arange(length, length + len(steps))
        layers, heads = self.attention.shape[:2]
        self.rows = np.full((layers, heads, len(steps), length + len(steps)), np.nan, np.float32)
        for step, row in enumerate(steps):
            self.rows[:, :, step, : row.shape[-1]] = row


def record_sample(vlm: VLM, sample: Sample, encoding: Encoding, first: Prefill, index: int, positions: Sequence[int] | None) -> Record:
    """The record of sample `index` of a batch, from its prefill. `positions` are the further rows the prefill holds.

    Raises
    ------
    CaptureError
        Part of the attention is on padding.
    """
    captured = captured_rows(vlm, sample.id, encoding, first, index, positions)
    record = Record(
        sample=sample,
        encoding=encoding,
        sha256=None,
        attention=captured[:, :, 0],
        scores={"entropy": entropy(first, index)},
        residual=torch.stack([layer[index] for layer in first.residual]).float().cpu().numpy() if first.residual else None,
    )
    if positions is not None:
        record.rows = captured[:, :, 1 : 1 + len(positions)]
        record.row_positions = np.asarray(positions, dtype=np.int64)
    encoding.inputs.clear()  # pixel values of a whole benchmark would not fit into memory
    return record


def captured_rows(
    vlm: VLM, sample_id: str, encoding: Encoding, first: Prefill, index: int, positions: Sequence[int] | None = None
) -> _Floats:
    """(layer, head, row, token) float32 of sample `index` of a batch, the last prompt token's row first, then those of `positions`.

    Raises
    ------
    CaptureError
        Part of the attention is on padding.
    """
    left = first.run.ids.shape[1] - len(encoding)
    captured = torch.stack([layer[index, :, :, left:] for layer in first.outputs.attentions]).cpu().numpy()
    _check_padding(captured[:, :, 0], sample_id)
    mark_unreachable(vlm, captured, [len(encoding) - 1, *(positions or [])])
    return captured


def _check_padding(attention: _Floats, sample_id: str) -> None:
    """A prompt's own tokens must hold all of its attention, in every batch: what is missing went to the padding."""
    missing = 1 - attention.sum(-1, dtype=np.float64)
    layer, head = np.unravel_index(np.abs(missing).argmax(), missing.shape)
    worst = float(missing[layer, head])
    if not abs(worst) <= SUM_TOLERANCE:
        raise CaptureError(
            f"Attention of layer {layer}, head {head} on the tokens of sample {sample_id!r} sums to {1 - worst:.4g}, not 1: padding is "
            "attended to, so the model's mask was lost; register the mask function of row capture (interp.capture.attention.register)."
        )
