"""Answers from a finished prefill: what the model says, and how likely it finds what it should have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from interp.benchmarks.sample import Sample
from interp.capture.forward import Prefill
from interp.capture.reach import mark_unreachable
from interp.decoding import greedy, reference_logprobs
from interp.encoding import Encoding, answer_ids
from interp.vlm import VLM


@dataclass(frozen=True, eq=False)
class Answered:
    """One sample's answer.

    Parameters
    ----------
    ids
        (step,) generated ids, the end token included.
    scores
        `reference_logprob` and `reference_logprob_mean`, nats: of the best reference and the end token, and that per token.
    rows
        Per token said, the end token left out: its attention row (layer, head, key) float32, over the prompt's own tokens and the answer
        up to itself, if rows were asked for.
    """

    ids: NDArray[np.int64]
    scores: dict[str, float]
    rows: list[NDArray[np.float32]]


def answered(
    vlm: VLM, samples: Sequence[Sample], encodings: Sequence[Encoding], first: Prefill, max_new_tokens: int, keep_rows: bool = False
) -> list[Answered]:
    """Answer a batch from its prefill's cache, after the references were scored against it.

    Parameters
    ----------
    samples, encodings
        What was asked, and as which tokens.
    first
        Its prefill, with a cache.
    max_new_tokens
        Longest answer, in tokens.
    keep_rows
        Collect the attention row of each token that is said; the text decoder must serve rows.
    """
    wanted = [
        [answer_ids(vlm.processor, encoding.text, reference) for reference in sample.references]
        for sample, encoding in zip(samples, encodings, strict=True)
    ]
    total, mean = reference_logprobs(first.run, first.outputs, wanted, vlm.end_tokens[0], len(samples))
    extra = {"query_rows": "last", "output_attentions": True} if keep_rows else None
    said = greedy(first.run, first.outputs, vlm.end_tokens, vlm.pad_token, max_new_tokens, extra, feed_last=keep_rows)
    found = []
    for index, encoding in enumerate(encodings):
        ids = said.ids[index].cpu().numpy()
        ended = np.flatnonzero(np.isin(ids, vlm.end_tokens))
        spoken = ended[0] if ended.size else len(ids)
        scores = {"reference_logprob": float(total[index]), "reference_logprob_mean": float(mean[index])}
        rows = [_row(vlm, [layer[index, :, 0] for layer in step], len(encoding) + k) for k, step in enumerate(said.rows[:spoken])]
        found.append(Answered(ids[: spoken + 1], scores, rows))
    return found


def _row(vlm: VLM, layers: Sequence[torch.Tensor], position: int) -> NDArray[np.float32]:
    """(layer, head, key) of the token at `position` of one sample, from (head, key) per layer over what is in the layer's cache.

    The newest key is the last of every cache. A full one begins with the padding; a sliding one has dropped what its window left behind.
    """
    length = position + 1
    row = np.full((len(layers), layers[0].shape[0], length), np.nan, np.float32)
    for layer, cached in enumerate(layers):
        own = cached[:, -length:].cpu().numpy()
        row[layer, :, length - own.shape[1] :] = own
    mark_unreachable(vlm, row[:, :, None], [position])
    return row


def answer_text(vlm: VLM, ids: NDArray[np.integer]) -> str:
    """The text of one answer's ids; negative ones past its end are left out."""
    said = torch.as_tensor(ids[ids >= 0])[None]
    return vlm.decode(said)[0]


def entropy(first: Prefill, index: int) -> float:
    """Entropy of the first answer token of sample `index` of a batch, nats."""
    logits = first.outputs.logits[index, -1].float().log_softmax(-1)
    return float(-torch.xlogy(logits.exp(), logits.exp()).sum())
