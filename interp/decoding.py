"""Greedy answers from one prefill, and the probability the model gives to a reference.

Positions, masks and caches are prepared by transformers' own generation code, so that every family keeps its conventions and the answer
equals ``generate(do_sample=False)`` of a model without penalties. Decoding is a plain arg-max.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(eq=False)
class Run:
    """A generation in progress: the ids so far, and what transformers carries from step to step."""

    model: Any
    ids: torch.Tensor
    carried: dict[str, Any] = field(repr=False)

    @classmethod
    def start(cls, model: Any, inputs: Mapping[str, torch.Tensor], *, use_cache: bool = True) -> Run:
        """The state before the prefill, for inputs of a (left-padded) batch."""
        carried: dict[str, Any] = dict(inputs)
        ids = carried.pop("input_ids")
        carried["use_cache"] = use_cache
        carried["position_ids"] = model._prepare_position_ids_for_generation(ids, carried)
        return cls(model, ids, carried)

    def prefill_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the prefill."""
        return self.model.prepare_inputs_for_generation(self.ids, is_first_iteration=True, **self.carried)

    def advance(self, outputs: Any, ids: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of the forward pass that feeds `ids` (batch, step) after a pass with `outputs`."""
        steps = ids.shape[1]
        self.carried = self.model._update_model_kwargs_for_generation(outputs, self.carried, num_new_tokens=steps)
        self.ids = torch.cat([self.ids, ids], dim=1)
        return self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=steps, **self.carried)


@dataclass(frozen=True, eq=False)
class Answers:
    """Generated ids (batch, step), padded after the end token, and the attention rows of each step if they were asked for."""

    ids: torch.Tensor
    rows: list[tuple[torch.Tensor, ...]]


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer, the tokenizer's own first."""
    configured = model.generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None and (tokenizer.eos_token_id in ids or not ids):
        ids = [tokenizer.eos_token_id, *(i for i in ids if i != tokenizer.eos_token_id)]
    return tuple(ids)


@torch.no_grad()
def greedy(
    run: Run,
    outputs: Any,
    ends: Sequence[int],
    pad: int,
    max_new_tokens: int,
    extra: Mapping[str, Any] | None = None,
    feed_last: bool = False,
) -> Answers:
    """Answer ids by arg-max from a finished prefill, until every sample has ended.

    Parameters
    ----------
    run, outputs
        State and outputs of the prefill; `outputs.logits` end at the last prompt token.
    extra
        Keyword arguments for every step (a request for attention rows).
    feed_last
        Also run the last token through the model, so that each answer token has its own step.
    """
    stops = torch.as_tensor(list(ends), device=run.ids.device)
    alive = torch.ones(len(run.ids), dtype=torch.bool, device=run.ids.device)
    said, rows = [], []
    for step in range(max_new_tokens):
        token = torch.where(alive, outputs.logits[:, -1].argmax(-1), pad)
        said.append(token)
        alive = alive & ~torch.isin(token, stops)
        last = step + 1 == max_new_tokens
        if not alive.any() or (last and not feed_last):
            break
        outputs = run.model(**run.advance(outputs, token[:, None]), **(extra or {}), return_dict=True)
        if extra:
            rows.append(outputs.attentions)
    return Answers(torch.stack(said, dim=1), rows)


@torch.no_grad()
def reference_logprobs(
    run: Run, outputs: Any, references: Sequence[Sequence[Sequence[int]]], end: int, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probability, nats, of each sample's best reference followed by the end token, given the prompt.

    The prefill's cache is reused (and left as it was), so only the reference's own tokens are computed.

    Parameters
    ----------
    references
        Per sample, the token ids of each reference.

    Returns
    -------
    tuple of (sample,) float64
        The sum over the tokens of the best reference, and that sum per token.
    """
    pairs = [(sample, [*ids, end]) for sample, choices in enumerate(references) for ids in choices]
    total, mean = np.full(len(references), -np.inf), np.full(len(references), -np.inf)
    for at in range(0, len(pairs), batch_size):
        block = pairs[at : at + batch_size]
        for (sample, ids), score in zip(block, _score(run, outputs, block), strict=True):
            if score > total[sample]:
                total[sample], mean[sample] = score, score / len(ids)
    return total, mean


def _score(run: Run, outputs: Any, pairs: Sequence[tuple[int, list[int]]]) -> list[float]:
    device = run.ids.device
    rows = torch.as_tensor([sample for sample, _ in pairs], device=device)
    longest = max(len(ids) for _, ids in pairs)
    wanted = torch.as_tensor([ids + ids[-1:] * (longest - len(ids)) for _, ids in pairs], device=device)
    cache = copy.deepcopy(outputs.past_key_values)
    cache.batch_select_indices(rows)
    branch = Run(run.model, run.ids[rows], {name: _select(name, value, rows, len(run.ids)) for name, value in run.carried.items()})
    branched = _Outputs({"past_key_values": cache})
    first = outputs.logits[rows, -1:]
    later = run.model(**branch.advance(branched, wanted[:, :-1]), return_dict=True).logits if longest > 1 else first[:, :0]
    logits = torch.cat([first, later], dim=1).float()
    scores = logits.log_softmax(-1).gather(2, wanted[:, :, None])[:, :, 0].double()
    return [float(score[: len(ids)].sum()) for score, (_, ids) in zip(scores, pairs, strict=True)]


class _Outputs(dict[str, Any]):
    """The one part of a forward pass's outputs that the next step needs."""

    __getattr__ = dict.__getitem__


def _select(name: str, value: Any, rows: torch.Tensor, batch: int) -> Any:
    """The chosen samples of a per-token tensor; what describes pictures is not needed after the prefill."""
    if not isinstance(value, torch.Tensor) or name.startswith(("pixel", "image")):
        return value
    axis = value.ndim - 2 if name == "position_ids" else 0  # positions may have a leading axis for time, height and width
    return value.index_select(axis, rows) if value.shape[axis] == batch else value
