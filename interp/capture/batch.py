"""One batch of samples through the model, into records: prefill, rows, answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from interp.benchmarks.sample import Sample
from interp.capture.answering import answer_text, answered
from interp.capture.forward import prefill
from interp.capture.record import Record, record_sample
from interp.encoding import Encoding
from interp.errors import InterpError
from interp.vlm import VLM

Queries = Literal["answer", "question"] | Sequence[int]


def trace_batch(
    vlm: VLM,
    batch: Sequence[Sample],
    encodings: Sequence[Encoding],
    *,
    answers: bool = True,
    queries: Queries | None = None,
    residual: bool = False,
    max_new_tokens: int = 16,
    check: bool = False,
) -> list[Record]:
    """Records of a batch, from one left-padded prefill (and the steps of its answer). Arguments as in `interp.trace`.

    The text decoder must be inside `serving_rows`.

    Raises
    ------
    CaptureError
        Rows fail a check.
    InterpError
        A position in `queries` is outside a prompt.
    """
    rows = positions(encodings, queries)
    first = prefill(vlm, encodings, rows=rows, use_cache=answers, residual=residual, check=check)
    records = [
        record_sample(vlm, sample, encoding, first, index, rows[index] if rows is not None else None)
        for index, (sample, encoding) in enumerate(zip(batch, encodings, strict=True))
    ]
    if answers:
        first.outputs.attentions = None  # copied out above; the answer does not need them
        keep_rows = queries == "answer"
        for record, said in zip(records, answered(vlm, batch, encodings, first, max_new_tokens, keep_rows), strict=True):
            record.answer(answer_text(vlm, said.ids), said.ids)
            record.scores |= said.scores
            if keep_rows:
                record.keep_answer_rows(said.rows)
    return records


def positions(encodings: Sequence[Encoding], queries: Queries | None) -> list[list[int]] | None:
    """Per prompt, the positions whose rows are wanted. Rows of the answer come later, from its own steps.

    Raises
    ------
    InterpError
        A position is outside a prompt.
    """
    if queries is None or queries == "answer":
        return None
    if queries == "question":
        return [encoding.question_tokens.tolist() for encoding in encodings]
    rows = []
    for encoding in encodings:
        length = len(encoding)
        for position in queries:
            if not -length <= int(position) < length:
                raise InterpError(f"Query position {position} is outside a prompt of {length} tokens; use -{length} to {length - 1}.")
        rows.append([int(position) % length for position in queries])
    return rows
