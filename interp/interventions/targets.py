"""What an intervention's effect is measured on: the reference to be said, the foil it competes with, and the token where they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp.answers import exact_match
from interp.benchmarks.sample import Sample
from interp.capture.facts import TEXT, Facts
from interp.capture.labels import describe, pad, static
from interp.decoding import Run, greedy, reference_logprobs
from interp.encoding import Encoding, answer_ids
from interp.vlm import VLM

_TOKENLESS = ("token", "layer", "head")


@dataclass(frozen=True, eq=False)
class Target:
    """Tokens that the effect on one sample is read from, all of them found without any intervention.

    Parameters
    ----------
    prediction, prediction_ids
        The model's greedy answer, as text and as ids with the end token.
    exact_match
        1 where it is right (strict exact match), otherwise 0.
    reference_ids
        The most probable of the references, and the end token.
    foil_ids
        What the reference competes with: of a wrong answer its own ids; of a right one the runner-up alone, which is the most probable
        first token besides the reference's.
    position
        The first step where reference and foil differ, or -1: an answer that was cut off before they part has no foil.
    """

    prediction: str
    prediction_ids: tuple[int, ...]
    exact_match: float
    reference_ids: tuple[int, ...]
    foil_ids: tuple[int, ...]
    position: int

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens to be fed after the prompt, so that the logits of the last prompt position and of these score the reference."""
        return self.reference_ids[:-1]

    def read(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What logits say about the target.

        Parameters
        ----------
        logits
            (..., step, vocabulary), at the last prompt position and at every fed token.

        Returns
        -------
        tuple
            Log-probability of the reference, nats, and its logit less the foil's where they part (NaN without a foil), each (...)
            float64; and the most probable token of every step (..., step).
        """
        wanted = torch.as_tensor(self.reference_ids, device=logits.device)
        score = logits.float().log_softmax(-1).gather(-1, wanted.expand(logits.shape[:-1])[..., None])[..., 0].double().sum(-1)
        if self.position < 0:
            return score, torch.full_like(score, torch.nan), logits.argmax(-1)
        at = logits[..., self.position, :].double()
        difference = at[..., self.reference_ids[self.position]] - at[..., self.foil_ids[self.position]]
        return score, difference, logits.argmax(-1)


def forced(vlm: VLM, encoding: Encoding, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Model inputs (batch of one) of a prompt followed by answer tokens `ids`, in one forward pass and without padding."""
    inputs = vlm.batch([encoding])
    shape = inputs["input_ids"].shape
    for name, value in inputs.items():
        if value.shape == shape and not value.is_floating_point():
            # an answer's tokens are text, which every family marks by 0
            more = list(ids) if name == "input_ids" else [int(name == "attention_mask")] * len(ids)
            inputs[name] = torch.cat([value, value.new_tensor(more)[None]], dim=1)
    return inputs


@torch.no_grad()
def find_targets(vlm: VLM, samples: Sequence[Sample], encodings: Sequence[Encoding], max_new_tokens: int = 16) -> list[Target]:
    """The targets of a batch of samples, from one left-padded prefill, its answers and the scores of the references.

    Raises
    ------
    AlignmentError
        A reference's tokens cannot be told from the prompt's.
    """
    vlm.refuse_edits("find_targets")
    run = Run.start(vlm.hf_model, vlm.batch(encodings))
    outputs = vlm.hf_model(**run.prefill_inputs(), logits_to_keep=1, return_dict=True)
    return targets_after(vlm, samples, encodings, run, outputs, max_new_tokens)


@torch.no_grad()
def targets_after(
    vlm: VLM, samples: Sequence[Sample], encodings: Sequence[Encoding], run: Run, outputs: Any, max_new_tokens: int = 16
) -> list[Target]:
    """As `find_targets`, after a prefill that was done with a cache; the answer is written into that cache.

    Raises
    ------
    AlignmentError
        A reference's tokens cannot be told from the prompt's.
    """
    choices = [
        [answer_ids(vlm.processor, encoding.text, reference) for reference in sample.references]
        for sample, encoding in zip(samples, encodings, strict=True)
    ]
    best = _best(run, outputs, choices, vlm.end_tokens[0])
    first = outputs.logits[:, -1]
    said = greedy(run, outputs, vlm.end_tokens, vlm.pad_token, max_new_tokens).ids.cpu().numpy()
    return [
        _target(vlm, sample, (*ids[which], vlm.end_tokens[0]), _spoken(row, vlm.end_tokens), logits)
        for sample, ids, which, row, logits in zip(samples, choices, best, said, first, strict=True)
    ]


def with_targets(facts: Sequence[Facts], targets: Sequence[Target], vlm: VLM, settings: Mapping[str, Any]) -> xr.Dataset:
    """The side of a result that belongs to samples: coordinates and provenance as in a trace, and the targets.

    Returns
    -------
    xr.Dataset
        `prediction`, `exact_match`, `reference` and `foil` (their texts), `foil_position`, and `reference_ids` and `foil_ids`
        (sample, step), -1 past their ends; questions, regions and pictures as in a trace.
    """
    known = static(facts, vlm, settings).drop_dims(_TOKENLESS).drop_vars("n_token")
    ids = {name: [np.asarray(getattr(target, f"{name}_ids")) for target in targets] for name in ("reference", "foil")}
    longest = max(len(each) for several in ids.values() for each in several)
    variables: dict[str, Any] = {
        "prediction": ("sample", np.array([target.prediction for target in targets], dtype=TEXT)),
        "exact_match": ("sample", np.array([target.exact_match for target in targets], dtype=np.float64)),
        "foil_position": (
            "sample",
            np.array([target.position for target in targets], dtype=np.int64),
            {"long_name": "first answer token where reference and foil differ, -1 where there is no foil"},
        ),
    }
    for name, long_name in (("reference", "most probable reference"), ("foil", "what the reference competes with")):
        texts = [vlm.decode(torch.as_tensor(each)[None])[0] for each in ids[name]]
        variables[name] = ("sample", np.array(texts, dtype=TEXT), {"long_name": long_name})
        table = pad(ids[name], -1, np.int64, (longest,))
        variables[f"{name}_ids"] = (("sample", "step"), table, {"long_name": f"token ids of the {name}, -1 past its end"})
    return describe(known.assign(variables))


def _best(run: Run, outputs: Any, choices: Sequence[Sequence[Sequence[int]]], end: int) -> NDArray[np.intp]:
    """Which of its references each sample finds most probable."""
    most = max(len(several) for several in choices)
    if most == 1:
        return np.zeros(len(choices), dtype=np.intp)
    turns = ([several[k : k + 1] for several in choices] for k in range(most))
    return np.argmax([reference_logprobs(run, outputs, turn, end, len(choices))[0] for turn in turns], axis=0)


def _spoken(ids: NDArray[np.int64], ends: Sequence[int]) -> tuple[int, ...]:
    ended = np.flatnonzero(np.isin(ids, ends))
    return tuple(ids[: ended[0] + 1 if ended.size else len(ids)].tolist())


def _target(vlm: VLM, sample: Sample, reference: tuple[int, ...], said: tuple[int, ...], first: torch.Tensor) -> Target:
    prediction = vlm.decode(torch.as_tensor(said)[None])[0]
    right = exact_match(prediction, sample.references)
    if right:
        likely = first.topk(2).indices.tolist()
        foil: tuple[int, ...] = (next(token for token in likely if token != reference[0]),)
    else:
        foil = said
    parted = (step for step, (wanted, other) in enumerate(zip(reference, foil, strict=False)) if wanted != other)
    return Target(prediction, said, right, reference, foil, next(parted, -1))
