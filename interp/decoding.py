"""Greedy answers from one prefill, and the probability the model gives to a reference.

Positions, masks and caches are prepared by transformers' own generation code, so that every family keeps its conventions and the answer
equals ``generate(do_sample=False)`` of a model without penalties. Decoding is a plain arg-max.

Several families run without an input they need, and answer something else. So what reaches the forward pass is looked at: see `needs`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.errors import AlignmentError

# Facts of the pictures beside their pixels. Signatures call them optional only because videos go without.
_OF_PICTURES = ("image_grid_thw", "batch_num_images")


def needs(model: Any) -> tuple[str, ...]:
    """The inputs that a prompt with pictures must bring along, by the signatures of the model.

    The tokens' types are among them where the model takes any: they hold what is bidirectional, or how positions are counted, and a model
    without them falls back to plain text, silently. So is what the image features cannot be computed without.
    """
    forward = inspect.signature(model.forward).parameters
    pictures = inspect.signature(model.model.get_image_features).parameters
    required = [name for name, p in pictures.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    described = [name for name in _OF_PICTURES if name in pictures]
    types = [name for name in forward if name.endswith("token_type_ids")]
    return ("attention_mask", *dict.fromkeys([*required, *described, *types]))


@dataclass(frozen=True, eq=False)
class Fed:
    """What one forward pass of a generation is fed.

    Parameters
    ----------
    asked
        Per row of the batch, the ids of the sample and of its picture.
    starts
        (row,) where each prompt begins behind its padding.
    width
        Length of the padded prompts.
    past
        Tokens that were fed before.
    steps
        Tokens that are fed now.
    """

    asked: tuple[tuple[str, str], ...]
    starts: tuple[int, ...]
    width: int
    past: int
    steps: int


@dataclass(eq=False)
class Run:
    """A generation in progress: the ids so far, and what transformers carries from step to step.

    Positions are among it. A model that counts them in several dimensions keeps the last prompt's offset on itself, so without them another
    prompt between two steps would move every later token.
    """

    model: Any
    ids: torch.Tensor
    carried: dict[str, Any] = field(repr=False)
    call: Callable[[Run, dict[str, Any]], Any] | None = field(default=None, repr=False)
    asked: tuple[tuple[str, str], ...] = ()
    starts: tuple[int, ...] = ()
    width: int = 0

    @classmethod
    def start(
        cls,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        *,
        use_cache: bool = True,
        call: Callable[[Run, dict[str, Any]], Any] | None = None,
        asked: Sequence[tuple[str, str]] = (),
    ) -> Run:
        """The state before the prefill, for inputs of a (left-padded) batch.

        Parameters
        ----------
        call
            Runs a forward pass in the model's stead, given this run and the keyword arguments: an edited model.
        asked
            Per row, the ids of the sample and of its picture.
        """
        carried: dict[str, Any] = dict(inputs)
        ids = carried.pop("input_ids")
        carried["use_cache"] = use_cache
        carried["position_ids"] = model._prepare_position_ids_for_generation(ids, carried)
        mask = inputs.get("attention_mask", torch.ones_like(ids))  # a mask that is missing is refused by the prefill
        starts = tuple((mask == 0).sum(1).tolist())
        return cls(model, ids, carried, call, tuple(asked), starts, ids.shape[1])

    def forward(self, inputs: Mapping[str, Any], **extra: Any) -> Any:
        """The model's outputs for what `prefill_inputs` or `advance` gave."""
        arguments = {**inputs, **extra, "return_dict": True}
        return self.model(**arguments) if self.call is None else self.call(self, arguments)

    def fed(self, arguments: Mapping[str, Any]) -> Fed:
        """What a forward pass with these arguments is fed."""
        steps = int(arguments["input_ids"].shape[1])
        return Fed(self.asked, self.starts, self.width, self.ids.shape[1] - steps, steps)

    def select(self, rows: torch.Tensor) -> Run:
        """The same generation for chosen rows of the batch, which may repeat."""
        carried = {name: _select(name, value, rows, len(self.ids)) for name, value in self.carried.items()}
        places = rows.tolist()
        asked = tuple(self.asked[place] for place in places) if self.asked else ()
        return Run(self.model, self.ids[rows], carried, self.call, asked, tuple(self.starts[place] for place in places), self.width)

    def prefill_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the prefill.

        Raises
        ------
        AlignmentError
            An input that this model needs is not among them, or does not fit the prompt's tokens.
        """
        inputs = self.model.prepare_inputs_for_generation(self.ids, is_first_iteration=True, **self.carried)
        _check_positions(self.model, inputs)
        _check_pictures(self.model, inputs, self.ids == self.model.config.image_token_id)
        return inputs

    def advance(self, outputs: Any, ids: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of the forward pass that feeds `ids` (batch, step) after a pass with `outputs`."""
        steps = ids.shape[1]
        self.carried = self.model._update_model_kwargs_for_generation(outputs, self.carried, num_new_tokens=steps)
        self.ids = torch.cat([self.ids, ids], dim=1)
        inputs = self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=steps, **self.carried)
        _check_positions(self.model, inputs)
        return inputs


def fork(run: Run, outputs: Any) -> tuple[Run, Any]:
    """The same generation once more, to go on by itself: what one of the two is fed, the other does not see.

    Keys and values are shared, not copied: a cache grows into new tensors.

    Parameters
    ----------
    run, outputs
        State and outputs of a forward pass with a cache, which nothing was fed after.
    """
    cache = copy.copy(outputs.past_key_values)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    return replace(run, carried=dict(run.carried)), replace(outputs, past_key_values=cache)


def _check_positions(model: Any, inputs: Mapping[str, Any]) -> None:
    if inputs.get("position_ids") is None:
        raise AlignmentError(
            f"{type(model).__name__} was not given its tokens' positions and might count from the last prompt it saw; "
            "begin a generation with interp.decoding.Run.start."
        )


def _check_pictures(model: Any, inputs: Mapping[str, Any], is_image: torch.Tensor) -> None:
    needed = needs(model)
    lacking = [name for name in needed if inputs.get(name) is None]
    if lacking:
        raise AlignmentError(
            f"The model's inputs lack {', '.join(lacking)}, and {type(model).__name__} would fail or give other numbers without; "
            "pass on all that vlm.encode and vlm.batch return."
        )
    for name in (name for name in needed if name.endswith("token_type_ids")):
        if not torch.equal(inputs[name] != 0, is_image):
            raise AlignmentError(
                f"{name} marks other tokens than the {int(is_image.sum())} image tokens of the prompts, and {type(model).__name__} would "
                "give other numbers; pass on what the checkpoint's own processor returns."
            )


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
        outputs = run.forward(run.advance(outputs, token[:, None]), **(extra or {}))
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
    branch = run.select(rows)
    branched = _Outputs({"past_key_values": cache})
    first = outputs.logits[rows, -1:]
    later = branch.forward(branch.advance(branched, wanted[:, :-1])).logits if longest > 1 else first[:, :0]
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
