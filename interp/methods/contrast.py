"""Two prompts answered as one: each next token is chosen from the logits of both (contrastive decoding, as in arXiv 2406.12718)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from interp.capture.forward import Prefill


def combined(logits: torch.Tensor, other: torch.Tensor, weight: float, plausibility: float) -> torch.Tensor:
    """``logits + weight * other`` where a token is plausible, minus infinity elsewhere.

    Parameters
    ----------
    logits, other
        (..., vocabulary).
    weight
        Of the other's.
    plausibility
        Tokens whose probability by `logits` is less than this share of the best one's are left out.
    """
    plausible = logits >= logits.amax(-1, keepdim=True) + math.log(plausibility)
    return torch.where(plausible, logits + weight * other, -torch.inf)


@torch.no_grad()
def contrastive(
    first: Prefill, other: Prefill, ends: Sequence[int], pad: int, max_new_tokens: int, weight: float, plausibility: float
) -> list[NDArray[np.int64]]:
    """Per prompt, answer ids by arg-max of the combined logits, the end token included.

    Parameters
    ----------
    first, other
        Prefills with caches, of as many prompts each.
    ends, pad
        Ids that end an answer, and one that fills the batch behind an end.
    weight, plausibility
        As of `combined`.
    """
    stops = torch.as_tensor(list(ends), device=first.run.ids.device)
    alive = torch.ones(len(first.run.ids), dtype=torch.bool, device=first.run.ids.device)
    outputs, said = [first.outputs, other.outputs], []
    for step in range(max_new_tokens):
        logits, others = (each.logits[:, -1].float() for each in outputs)
        token = torch.where(alive, combined(logits, others, weight, plausibility).argmax(-1), pad)
        said.append(token)
        alive = alive & ~torch.isin(token, stops)
        if not alive.any() or step + 1 == max_new_tokens:
            break
        pairs = zip((first.run, other.run), outputs, strict=True)
        outputs = [run.forward(run.advance(each, token[:, None])) for run, each in pairs]
    found = torch.stack(said, dim=1).cpu().numpy()
    ended = [np.flatnonzero(np.isin(ids, list(ends))) for ids in found]
    return [ids[: at[0] + 1] if at.size else ids for ids, at in zip(found, ended, strict=True)]
