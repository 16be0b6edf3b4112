"""The checks themselves: what must hold of a checkpoint before its traces, edits and answers mean anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray

from interp.capture.attention import serving_rows
from interp.capture.forward import prefill
from interp.capture.record import captured_rows
from interp.capture.selfcheck import SUM_TOLERANCE
from interp.certificate import marker
from interp.certificate.subject import SHAPES, NotJudged, Subject, sentence
from interp.decoding import Run, greedy
from interp.encoding import Encoding, encode
from interp.errors import ModelError
from interp.prompts import PromptOrder

_MARKERS = 4  # on each picture
_STEPS = 8  # answer tokens
# Accepted mean total variation between a padded and an unpadded prompt's rows; half precision drifts by itself.
_DRIFT = {torch.float16: 0.03, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class Found:
    """What a check saw, as text and as numbers; a `fault` says why that is wrong."""

    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""


def prompt(subject: Subject) -> Found:
    """The question's tokens are found in the prompt, in the model's own prompt order; the other order is tried too."""
    vlm, sample = subject.vlm, subject.samples["square"]
    subject.rendered()
    served: list[str] = []
    refusal = ""
    for order in get_args(PromptOrder):
        try:
            encoding = encode(vlm.processor, vlm.hf_model.config, vlm.family, sample, "base", order)
        except ModelError as error:
            if order == vlm.prompt_order:
                raise
            refusal = str(error)
            continue
        except Exception:  # the template is fine, so it is the picture
            raise NotJudged("a picture did not become a prompt, see tokens") from None
        served.append(order)
        found, asked = "".join(encoding.token_text[k] for k in encoding.question_tokens), sample.question
        if "".join(asked.split()) not in "".join(found.split()):
            fault = f"The tokens marked as the question read {found!r} instead of {asked!r}; use a tokenizer whose offsets are complete."
            return Found(order, fault=fault)
    orders = " and ".join(served) + (" only: " + refusal if refusal else "")
    return Found(f"question found; {orders}", {"orders": len(served)})


def tokens(subject: Subject) -> Found:
    """A picture of any shape becomes as many tokens as the family's geometry says."""
    made = subject.encodings
    counts = {shape: int((encoding.image_index >= 0).sum()) for shape, encoding in made.items()}
    text = "; ".join(f"{SHAPES[shape][0]} x {SHAPES[shape][1]}: {n} tokens" for shape, n in counts.items())
    return Found(text, counts, " ".join(sentence(error) for error in subject.refused.values()))


def markers(subject: Subject) -> Found:
    """A marker drawn on a plain picture moves the tokens whose boxes hold it."""
    vlm = subject.vlm
    random = np.random.default_rng(subject.seed)
    n = own = as_is = 0
    faults: list[str] = []
    for shape in subject.prompts:
        sample = marker.plain([SHAPES[shape]])
        placed = marker.place(vlm.encode(sample), random, _MARKERS)
        if not placed:
            faults.append(f"no token has a box of six processed pixels or more on a picture of {SHAPES[shape]} pixels")
            continue
        drawn = marker.draw(vlm, sample, placed)
        with marker.silenced(vlm):
            alone = marker.respond(vlm, placed, drawn)
        whole = marker.respond(vlm, placed, drawn)
        n += alone.expected
        own += alone.peaks
        as_is += whole.peaks
        faults += alone.faults()
    text = f"strongest token holds a marker: {own} of {n} with mixing silenced, {as_is} of {n} without"
    return Found(text, {"markers": n, "peaks_silenced": own, "peaks": as_is, "faults": len(faults)}, _where(faults, subject))


def _where(faults: list[str], subject: Subject) -> str:
    if not faults:
        return ""
    return (
        f"With the tower's mixing silenced, {len(faults)} of the drawings contradict the boxes; the first: {faults[0]}; "
        f"correct the geometry of {subject.vlm.family.model_type}, or load the processor that belongs to the model."
    )


def two_pictures(subject: Subject) -> Found:
    """Of two pictures in one prompt, each token knows whose it is."""
    vlm = subject.vlm
    shapes = list(subject.prompts)
    sample = marker.plain([SHAPES[shapes[0]], SHAPES[shapes[-1]]])
    try:
        encoding = vlm.encode(sample)
    except (ModelError, TemplateError) as error:
        raise NotJudged(f"the chat template refuses two pictures ({error})") from None
    index = encoding.image_index[encoding.image_index >= 0]
    counts = {f"tokens_{k}": float((index == k).sum()) for k in range(2)}
    placed = marker.place(encoding, np.random.default_rng(subject.seed), 2)
    drawn = marker.draw(vlm, sample, placed)
    with marker.silenced(vlm):
        faults = marker.respond(vlm, placed, drawn).faults()
    fault = _where(faults, subject)
    if (np.diff(index) < 0).any() or not all(counts.values()):
        fault = "The tokens of two pictures in one prompt do not follow one another; correct the family's image_index."
    return Found(" + ".join(f"{int(count)} tokens" for count in counts.values()), {**counts, "faults": len(faults)}, fault)


def rows(subject: Subject) -> Found:
    """Every head's row sums to one, in a sliding layer within its window."""
    vlm = subject.vlm
    window = getattr(vlm.hf_model.config.get_text_config(), "sliding_window", None)
    off = np.zeros(vlm.n_layers)
    for found in subject.prefilled.values():
        for layer, kind in enumerate(vlm.layer_kinds):
            row = found.rows[layer].astype(np.float64)
            reach = window if kind == "sliding" and window else row.shape[-1]
            off[layer] = np.max([off[layer], np.abs(row[:, -reach:].sum(-1) - 1).max()])  # NaN stays NaN
    layer = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
    worst = float(off[layer])
    fault = (
        f"Attention rows of layer {layer} are off a sum of one by {worst:.2g} within what the layer can reach, so the attention that would "
        "be traced is not this model's; use transformers' own implementation of it."
    )
    return Found(f"off one by {worst:.1e} at most", {"off_one": worst}, "" if worst <= SUM_TOLERANCE else fault)


def values(subject: Subject) -> Found:
    """Rows times values are what the model itself hands to its output projection."""
    worst = max(found.watch.worst for found in subject.prefilled.values())
    for found in subject.prefilled.values():
        found.watch.judge(subject.vlm.dtype)
    return Found(f"off by {worst:.1e} of the values' size at most", {"off_value": worst})


def padding(subject: Subject) -> Found:
    """Prompts padded to one length give the rows that each gives alone."""
    vlm = subject.vlm
    made = subject.prompts
    if len(made) < 2:
        raise NotJudged("fewer than two pictures became prompts")
    with serving_rows(vlm.hf_model):
        batch = prefill(vlm, list(made.values()), use_cache=False)
        padded = [captured_rows(vlm, shape, encoding, batch, k) for k, (shape, encoding) in enumerate(made.items())]
    apart = max(_variation(rows, subject.prefilled[shape].rows) for rows, shape in zip(padded, made, strict=True))
    lengths = [len(encoding) for encoding in made.values()]
    text = f"{len(made)} prompts of {min(lengths)} to {max(lengths)} tokens: rows move by {apart:.1e} (total variation)"
    limit = _DRIFT.get(vlm.dtype, 1e-3)
    fault = (
        f"Rows of a left-padded prompt differ from those of the same prompt alone by {apart:.2g} (limit {limit:.2g}), so a result would "
        "depend on its batch; trace with batch_size=1, or correct the model's handling of the attention mask."
    )
    return Found(text, {"variation": apart, "limit": limit}, "" if apart <= limit else fault)


def _variation(padded: NDArray[np.floating], alone: NDArray[np.float32]) -> float:
    """Total variation between rows, averaged over layers and heads; where a window does not reach, nothing is compared."""
    return float(np.nansum(np.abs(padded[:, :, 0] - alone), axis=-1).mean() / 2)


def edit(subject: Subject) -> Found:
    """Silencing one head at the last position changes the logits, and without the edit they are back."""
    vlm = subject.vlm
    encoding = next(iter(subject.prompts.values()))
    layer = vlm.n_layers // 2
    attention = vlm.wrapper.model.language_model.layers[layer].self_attn
    width = vlm.layers[layer].self_attn.head_dim
    with torch.no_grad(), vlm.wrapper.trace(**_inputs(subject, encoding)):
        mixed = attention.o_proj.input[:, -1].clone().save()
        before = vlm.wrapper.output.logits.save()
    head = int(mixed[0].float().view(-1, width).norm(dim=-1).argmax())  # a head that writes nothing could not be told from a lost edit
    cut = slice(head * width, (head + 1) * width)
    with torch.no_grad(), vlm.wrapper.trace(**_inputs(subject, encoding)):
        attention.o_proj.input[:, -1, cut] = 0
        edited = vlm.wrapper.output.logits.save()
    with torch.no_grad(), vlm.wrapper.trace(**_inputs(subject, encoding)):
        after = vlm.wrapper.output.logits.save()
    moved, back = float((edited - before).abs().max()), float((after - before).abs().max())
    fault = ""
    if not moved > 0:
        fault = f"Zeroing head {head} of layer {layer} leaves the logits as they were, so ablations would do nothing; "
        fault += "use transformers' own implementation of the model."
    elif back != 0:
        fault = f"The logits of one prompt differ by {back:.2g} after an edit was removed, so the model keeps a state between calls; "
        fault += "remove hooks and wrappers from it."
    return Found(f"layer {layer}, head {head}: logits move by {moved:.2g}, and come back", {"moved": moved, "left_behind": back}, fault)


def _inputs(subject: Subject, encoding: Encoding) -> dict[str, object]:
    run = Run.start(subject.vlm.hf_model, subject.vlm.batch([encoding]), use_cache=False)
    return {**run.prefill_inputs(), "logits_to_keep": 1}


def answers(subject: Subject) -> Found:
    """A greedy answer is the same twice, also where another prompt comes between its beginning and its end."""
    first, other = (list(subject.prompts.values())[k] for k in (0, -1))
    once, again = _said(subject, first), _said(subject, first, between=other)
    ended = np.flatnonzero(np.isin(once, subject.vlm.end_tokens))
    text = subject.vlm.decode(torch.as_tensor(once[: ended[0] if ended.size else len(once)])[None])[0]
    same = int((once == again).sum())
    fault = (
        f"Only {same} of {len(once)} answer tokens stay the same when another prompt comes between, so the model keeps a state between "
        "calls; remove hooks and wrappers from it, or use another version of transformers."
    )
    found = f"{same} of {len(once)} tokens stay the same when another prompt comes between; the answer is {text!r}"
    return Found(found, {"tokens": len(once), "same": same}, "" if same == len(once) else fault)


@torch.no_grad()
def _said(subject: Subject, encoding: Encoding, between: Encoding | None = None) -> NDArray[np.int64]:
    """(step,) ids of a fixed number of answer tokens: the end token does not end them, or a short answer would leave nothing to compare."""
    vlm = subject.vlm
    run = Run.start(vlm.hf_model, vlm.batch([encoding]))
    outputs = vlm.hf_model(**run.prefill_inputs(), logits_to_keep=1, return_dict=True)
    if between is not None:
        _said(subject, between)
    return greedy(run, outputs, [-1], vlm.pad_token, _STEPS).ids[0].cpu().numpy()


CHECKS: dict[str, Callable[[Subject], Found]] = {
    "prompt": prompt,
    "tokens": tokens,
    "marker": markers,
    "two pictures": two_pictures,
    "rows": rows,
    "values": values,
    "edit": edit,
    "padding": padding,
    "answers": answers,
}
NEEDS = {"tokens": "prompt", "two pictures": "marker", "values": "rows", "padding": "rows"}  # what would fail for the same reason
