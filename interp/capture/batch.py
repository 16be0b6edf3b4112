"""One batch of samples through the model, into records: prefill, rows, answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from interp.benchmarks.sample import Sample
from interp.capture.forward import Prefill, prefill
from interp.capture.record import Record, record_sample
from interp.decoding import greedy, reference_logprobs
from interp.encoding import Encoding, answer_ids
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
        _answer(vlm, batch, encodings, first, records, max_new_tokens, keep_rows=queries == "answer")
    return records


def answer_text(vlm: VLM, ids: NDArray[np.integer]) -> str:
    """The text of one answer's ids; negative ones past its end are left out."""
    said = torch.as_tensor(ids[ids >= 0])[None]
    return vlm.decode(said)[0]


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


def _answer(
    vlm: VLM,
    batch: Sequence[Sample],
    encodings: Sequence[Encoding],
    first: Prefill,
    records: Sequence[Record],
    max_new_tokens: int,
    keep_rows: bool,
) -> None:
    """Answer from the prefill's cache, after the references were scored against it."""
    wanted = [
        [answer_ids(vlm.processor, encoding.text, reference) for reference in sample.references]
        for sample, encoding in zip(batch, encodings, strict=True)
    ]
    end = vlm.end_tokens[0]
    total, mean = reference_logprobs(first.run, first.outputs, wanted, end, len(batch))
    extra = {"query_rows": "last", "output_attentions": True} if keep_rows else None
    padded = first.run.ids.shape[1]
    said = greedy(first.run, first.outputs, vlm.end_tokens, vlm.pad_token, max_new_tokens, extra, feed_last=keep_rows)
    for index, record in enumerate(records):
        ids = said.ids[index].cpu().numpy()
        ended = np.flatnonzero(np.isin(ids, vlm.end_tokens))
        kept = ids[: ended[0] + 1] if ended.size else ids
        record.answer(answer_text(vlm, kept), kept)
        record.scores["reference_logprob"], record.scores["reference_logprob_mean"] = float(total[index]), float(mean[index])
        if keep_rows:
            spoken = ended[0] if ended.size else len(ids)
            left = padded - len(encodings[index])
            record.keep_answer_rows([torch.stack([layer[index, :, 0, left:] for layer in step]) for step in said.rows[:spoken]])
