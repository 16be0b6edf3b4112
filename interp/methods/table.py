"""Replies laid out: the fixed arrays that a run fills sample by sample, and the labelled dataset (method, sample) they become."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.answers import SCORES
from interp.capture.facts import TEXT, Facts
from interp.capture.labels import DESCRIPTIONS, describe, static
from interp.capture.layout import Planned
from interp.errors import InterpError
from interp.methods.batch import Reply
from interp.methods.method import Method
from interp.vlm import VLM

NUMBERS = ("reference_logprob", "reference_logprob_mean", "entropy", "seconds", "mean_gain", "passes")
IDS, PACKED = "capture/answer_ids", "capture/packed"

_PER_TOKEN = ("token_ids", "token_text", "segment", "token_boxes", "view", "row", "col", "image_index", "coverage")
_ASIDE = ("question", "references")  # the same for every method, so coordinates
_TAKEN = {
    *DESCRIPTIONS,
    *("method", "sample", "image", "evidence", "corner", "axis", "layer", "head", "token", "dataset", "split", "image_id"),
    *("mean_gain", "passes", "profiled_auroc"),
}
_OWN = {
    "mean_gain": ("mean gain of the picture's pixels", "1"),
    "passes": ("tokens through the decoder, in lengths of the base prompt", "1"),
    "profiled_auroc": ("AUROC of the profiled map on evidence tokens", "1"),
    "shift_role": ("role of the region under the shifted map's peak", ""),
}


def slim(facts: Facts) -> Facts:
    """The facts without those of tokens, which the answers of a whole benchmark do without."""
    return replace(facts, **{name: getattr(facts, name)[:0] for name in _PER_TOKEN})


def posed(facts: Sequence[Facts], vlm: VLM, methods: Sequence[Method], settings: Mapping[str, Any]) -> xr.Dataset:
    """What is known before a method runs: text, regions and pictures of the samples (slim facts), and provenance as attributes."""
    known = static(facts, vlm, settings).drop_dims(["token", "layer", "head"]).drop_vars("n_token").set_coords(_ASIDE)
    names = np.array([method.name for method in methods], dtype=TEXT)
    return known.assign_coords(method=("method", names, {"long_name": "way of answering"}))


def columns(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """(method, number) of every place of the packed vector; numbers of no method in particular come last, with an empty method."""
    return [
        *((method.name, number) for method in methods for number in NUMBERS),
        *((method.name, number) for method in methods for number in method.records),
        ("", "profiled_auroc"),
    ]


def planned(n: int, methods: Sequence[Method], max_new_tokens: int) -> dict[str, Planned]:
    """The arrays for `n` samples."""
    return {
        IDS: Planned(("sample", "method", "step"), (n, len(methods), max_new_tokens), "int64", -1),
        PACKED: Planned(("sample", "number"), (n, len(columns(methods))), "float64", np.nan),
    }


def check_records(methods: Sequence[Method]) -> None:
    """Refuse a further number whose name means something else in the result.

    Raises
    ------
    InterpError
        Its name is one of the result's own, or two methods record it.
    """
    recorded: dict[str, str] = {}
    for method in methods:
        for number in method.records:
            if number in _TAKEN or number.startswith("knob_"):
                raise InterpError(f"Method {method.name!r} records {number!r}, which the answers hold already; give it another name.")
            if number in recorded:
                raise InterpError(
                    f"Methods {recorded[number]!r} and {method.name!r} both record {number!r}; give each record a name of its own."
                )
            recorded[number] = method.name


def checked(replies: Sequence[Reply], method: Method, samples: Sequence[str], max_new_tokens: int) -> Sequence[Reply]:
    """One method's replies to a batch, as they are.

    Raises
    ------
    InterpError
        There is not one for each of `samples` (their ids), one is too long, or one records a code that has no meaning.
    """
    if len(replies) != len(samples):
        raise InterpError(
            f"Method {method.name!r} gave {len(replies)} replies to a batch of {len(samples)} samples; return one Reply for each, in "
            "their order."
        )
    for sample, reply in zip(samples, replies, strict=True):
        if len(reply.ids) > max_new_tokens:
            raise InterpError(
                f"Method {method.name!r} replied to sample {sample!r} with {len(reply.ids)} tokens, more than max_new_tokens="
                f"{max_new_tokens}; cut the reply, or evaluate with a larger max_new_tokens."
            )
        for number, meanings in method.records.items():
            code = reply.numbers.get(number, np.nan)
            if meanings and not np.isnan(code) and code not in range(len(meanings)):
                raise InterpError(
                    f"Method {method.name!r} recorded {number}={code:g} for sample {sample!r}, which has no meaning; record 0 to "
                    f"{len(meanings) - 1}."
                )
    return replies


def packed(replies: Mapping[str, Reply], quality: float, methods: Sequence[Method], max_new_tokens: int) -> dict[str, NDArray[Any]]:
    """One sample's replies (`checked`), by method, as values of the planned arrays. A number that a reply lacks is NaN, and so are all of
    a method without a reply.
    """
    replies = {method.name: replies.get(method.name, Reply(np.empty(0, np.int64))) for method in methods}
    ids = np.full((len(methods), max_new_tokens), -1, dtype=np.int64)
    for place, method in enumerate(methods):
        said = replies[method.name].ids
        ids[place, : len(said)] = said
    numbers = [replies[method].numbers.get(number, np.nan) if method else quality for method, number in columns(methods)]
    return {IDS: ids, PACKED: np.asarray(numbers, dtype=np.float64)}


def labelled(
    known: xr.Dataset,
    written: Mapping[str, NDArray[Any]],
    methods: Sequence[Method],
    text: Callable[[NDArray[np.int64]], str],
    absent: Collection[str] = (),
) -> xr.Dataset:
    """The answers: `known` with predictions, scores and numbers (method, sample), and what belongs to samples alone.

    Parameters
    ----------
    known
        From `posed`.
    written
        The planned arrays, filled.
    text
        Of one answer's ids (step,), negative ones past its end.
    absent
        Methods that are not applicable: they have an empty prediction and no score.
    """
    ids, numbers = written[IDS], dict(zip(columns(methods), np.asarray(written[PACKED]).T, strict=True))
    names = [method.name for method in methods]
    references = [json.loads(str(text)) for text in known["references"].values]
    texts = [[text(one) for one in ids[:, place]] for place in range(len(names))]
    both = ("method", "sample")
    variables: dict[str, Any] = {"prediction": (both, np.array(texts, dtype=TEXT))}
    for name, score in SCORES.items():
        scored = [
            [np.nan if of in absent else score(said, accepted) for said, accepted in zip(row, references, strict=True)]
            for of, row in zip(names, texts, strict=True)
        ]
        variables[name] = (both, np.asarray(scored, dtype=np.float64))
    for number in NUMBERS:
        variables[number] = (both, np.stack([numbers[name, number] for name in names]))
    for method in methods:
        for number, meanings in method.records.items():
            variables[number] = ("sample", _meant(numbers[method.name, number], meanings), {"of_method": method.name})
    if not np.isnan(numbers["", "profiled_auroc"]).all():
        variables["profiled_auroc"] = ("sample", numbers["", "profiled_auroc"], {"overlap_rule": "any"})
    answers = describe(known.assign(variables))
    for name, (long_name, unit) in _OWN.items():
        if name in answers.variables:
            answers[name].attrs |= {"long_name": long_name, **({"units": unit} if unit else {})}
    return answers


def _meant(values: NDArray[np.float64], meanings: Sequence[str]) -> NDArray[Any]:
    """The codes in words, empty where there is none; quantities as they are."""
    return np.array(["" if np.isnan(value) else meanings[int(value)] for value in values], dtype=TEXT) if meanings else values
