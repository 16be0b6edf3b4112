"""One sample as a prompt: the model's inputs, and for every token where it comes from.

Nothing is guessed. The question is found by rendering the chat template with marks around it, and followed through the processor's own
record of what it replaced and through the tokenizer's offsets. What does not line up raises `AlignmentError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.errors import AlignmentError, ModelError
from interp.families import Family, TokenRegions
from interp.prompts import PromptOrder, Wording, assistant_turn, user_turn, word

SEGMENTS = ("system", "image", "question", "instruction", "template")
PADDING = -1  # the segment of positions past the end of a prompt

History = Sequence[tuple[str, str]]
Span = tuple[int, int]

_SYSTEM, _IMAGE, _QUESTION, _INSTRUCTION, _TEMPLATE = range(len(SEGMENTS))
# Private-use characters: no template, tokenizer rule or question gives them a meaning.
_OPEN, _ASK, _ASKED, _CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, eq=False)
class Encoding:
    """A prompt as the model receives it.

    Parameters
    ----------
    inputs
        The model's keyword arguments, batch of one.
    text
        The rendered prompt, before image placeholders are expanded.
    token_ids, token_text
        (token,) int64 and the text each token stands for.
    token_boxes
        (token, 4) float64, region of the original picture in pixels; NaN where the token stands for none.
    token_scale
        (token, 2) float64, processed pixels per original pixel.
    segment
        (token,) int8, index into `SEGMENTS`. Words of earlier turns count as instruction.
    view, row, col, image_index
        (token,) int64, -1 for tokens without a region (`image_index`: for tokens of no picture).
    images
        The opened pictures, RGB.
    """

    inputs: dict[str, torch.Tensor]
    text: str
    token_ids: NDArray[np.int64]
    token_text: tuple[str, ...]
    token_boxes: NDArray[np.float64]
    token_scale: NDArray[np.float64]
    segment: NDArray[np.int8]
    view: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    image_index: NDArray[np.int64]
    images: tuple[Image.Image, ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def question_tokens(self) -> NDArray[np.int64]:
        """Positions of the question's tokens."""
        return np.flatnonzero(self.segment == _QUESTION)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A rendered prompt and the character spans in it."""

    text: str
    user: Span
    question: Span
    system_end: int
    earlier: tuple[Span, ...]


def conversation(text: str, n_images: int, order: PromptOrder, history: History = ()) -> list[dict[str, Any]]:
    """Chat messages: earlier turns, then `text`. The pictures belong to the first turn."""
    users = [*(asked for asked, _ in history), text]
    messages: list[dict[str, Any]] = []
    for turn, asked in enumerate(users):
        messages.append(user_turn(asked, n_images if turn == 0 else 0, order))
        if turn < len(history):
            messages.append(assistant_turn(history[turn][1]))
    return messages


def render(processor: Any, wording: Wording, n_images: int, order: PromptOrder, history: History = ()) -> _Rendered:
    """The chat template's text for a wording, with the spans of what the user says.

    Raises
    ------
    AlignmentError
        The template changes the user's words, so that the question cannot be followed.
    """
    before, question, after = (
        wording.text[: wording.question_start],
        wording.text[wording.question_start : wording.question_end],
        wording.text[wording.question_end :],
    )
    marked = f"{_OPEN}{before}{_ASK}{_ASKED}{after}{_CLOSE}"
    frame = _apply(processor, conversation(marked, n_images, order, history))
    if any(frame.count(mark) != 1 for mark in (_OPEN, _ASK, _ASKED, _CLOSE)):
        raise AlignmentError("The chat template does not show the user's words exactly once; use a template that inserts them unchanged.")
    head, tail = frame.split(_OPEN)[0], frame.split(_CLOSE)[1]
    start = len(head)
    asked = (start + len(before), start + len(before) + len(question))
    end = start + len(wording.text)
    text = _apply(processor, conversation(wording.text, n_images, order, history))
    if text != head + wording.text + tail:
        raise AlignmentError(
            "The chat template changes the user's words, so the question cannot be found in the prompt; "
            f"use a template that inserts them unchanged (the question was {question!r})."
        )
    return _Rendered(text, (start, end), asked, _system_end(processor), _earlier(text[:start], history))


def _earlier(head: str, history: History) -> tuple[Span, ...]:
    spans, at = [], 0
    for words in (words for turn in history for words in turn if words):
        found = head.find(words, at)
        if found < 0:
            raise AlignmentError(f"The chat template changes an earlier turn ({words!r}); use a template that inserts turns unchanged.")
        at = found + len(words)
        spans.append((found, at))
    return tuple(spans)


def _apply(processor: Any, messages: list[dict[str, Any]], generation: bool = True) -> str:
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)


def _system_end(processor: Any) -> int:
    """Where the system text ends: what stands before the first user turn but not before the second."""
    try:
        talk = _apply(processor, [user_turn(_OPEN, 0), assistant_turn(_ASK), user_turn(_ASKED, 0)], generation=False)
    except TemplateError:  # a template of single turns: everything around the user's words is template
        return 0
    first, later = talk.split(_OPEN)[0], talk.split(_ASK)[-1].split(_ASKED)[0]
    shared = next(
        (i for i, (a, b) in enumerate(zip(reversed(first), reversed(later), strict=False)) if a != b), min(len(first), len(later))
    )
    return len(first) - shared


def encode(processor: Any, config: Any, family: Family, sample: Sample, prompt: str, order: PromptOrder, history: History = ()) -> Encoding:
    """A sample as model inputs with the origin of every token. See `Encoding`.

    Raises
    ------
    AlignmentError
        Question, tokens and image regions do not line up.
    ModelError
        The chat template cannot put the picture where `order` wants it.
    """
    images = tuple(sample.open_images())
    wording = word(prompt, sample.question.strip())
    rendered = render(processor, wording, len(images), order, history)
    bos = processor.tokenizer.bos_token
    outputs = processor(
        text=[rendered.text],
        images=[list(images)],  # nested: some families treat several pictures of one prompt differently
        return_tensors="pt",
        return_offsets_mapping=True,
        return_text_replacement_offsets=True,
        # a template that writes the first token itself must not get it twice
        add_special_tokens=not (bos is not None and rendered.text.startswith(bos)),
    )
    inputs = dict(outputs)
    offsets = np.asarray(inputs.pop("offset_mapping")[0], dtype=np.int64)
    replaced = inputs.pop("text_replacement_offsets", None)
    if not replaced:
        raise AlignmentError(
            f"Processor {type(processor).__name__} does not say where it put the pictures; use a processor of transformers 5."
        )
    shift = _Shift(rendered.text, replaced[0])
    ids = inputs["input_ids"][0].numpy()
    is_image = ids == config.image_token_id
    regions = _regions(processor, config, family, images, inputs, sample, int(is_image.sum()))
    segment = _segments(offsets, is_image, rendered, shift, sample)
    if not history:
        _check_order(segment, order)
    tokenizer = processor.tokenizer
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    texts = (shift.text[a:b] if b > a else name for (a, b), name in zip(offsets, names, strict=True))
    return Encoding(
        inputs=inputs,
        text=rendered.text,
        token_ids=ids,
        token_text=tuple(texts),
        segment=segment,
        images=images,
        token_boxes=_spread(regions.boxes, is_image, np.nan),
        token_scale=_spread(regions.scale, is_image, np.nan),
        view=_spread(regions.view, is_image, -1),
        row=_spread(regions.row, is_image, -1),
        col=_spread(regions.col, is_image, -1),
        image_index=_spread(regions.image_index, is_image, -1),
    )


class _Shift:
    """Characters of the rendered prompt in the expanded one (every picture's placeholder becomes many)."""

    def __init__(self, text: str, replaced: Sequence[Mapping[str, Any]]) -> None:
        pieces, at, moved = [], 0, 0
        self._moves: list[tuple[int, int]] = []
        for change in replaced:
            start, end = change["span"]
            pieces += [text[at:start], change["replacement"]]
            at = end
            moved += len(change["replacement"]) - (end - start)
            self._moves.append((end, moved))
        self.text = "".join([*pieces, text[at:]])

    def __call__(self, span: Span) -> Span:
        start, end = (next((at + moved for stop, moved in reversed(self._moves) if at >= stop), at) for at in span)
        return start, end


def _segments(
    offsets: NDArray[np.int64], is_image: NDArray[np.bool_], rendered: _Rendered, shift: _Shift, sample: Sample
) -> NDArray[np.int8]:
    start, end = offsets.T
    some = end > start

    def inside(span: Span) -> NDArray[np.bool_]:
        first, last = shift(span)
        return some & (start < last) & (end > first)

    segment = np.full(len(offsets), _TEMPLATE, dtype=np.int8)
    segment[some & (end <= shift((0, rendered.system_end))[1])] = _SYSTEM
    for span in (*rendered.earlier, rendered.user):
        segment[inside(span)] = _INSTRUCTION
    asked = inside(rendered.question) & ~is_image
    segment[asked] = _QUESTION
    segment[is_image] = _IMAGE
    first, last = shift(rendered.question)
    if last > first:
        covered = np.zeros(last - first, dtype=bool)
        for a, b in zip(start[asked], end[asked], strict=True):
            covered[max(a - first, 0) : b - first] = True
        missed = [c for c, found in zip(shift.text[first:last], covered, strict=True) if not found and not c.isspace()]
        if missed:
            raise AlignmentError(
                f"Sample {sample.id!r}: the tokens of the question {sample.question!r} do not cover its characters "
                f"{''.join(missed)!r}; use a tokenizer whose offsets are complete."
            )
    return segment


def _regions(
    processor: Any, config: Any, family: Family, images: Sequence[Image.Image], inputs: Mapping[str, Any], sample: Sample, found: int
) -> TokenRegions:
    arrays = {name: value.numpy() for name, value in inputs.items() if name.endswith(("_thw", "_sizes", "_num_images"))}
    parts = [family.image_regions(processor, config, image.size, index, arrays) for index, image in enumerate(images)]
    regions = TokenRegions.join(parts)
    if len(regions) != found:
        raise AlignmentError(
            f"Sample {sample.id!r}: the prompt holds {found} image tokens, but the image geometry of {family.model_type} gives "
            f"{len(regions)} for {len(images)} image(s) of {[image.size for image in images]} pixels; "
            "check that processor and model belong together."
        )
    return regions


def _spread(values: NDArray[Any], where: NDArray[np.bool_], fill: float) -> NDArray[Any]:
    spread = np.full((len(where), *values.shape[1:]), fill, dtype=values.dtype)
    spread[where] = values
    return spread


def _check_order(segment: NDArray[np.int8], order: PromptOrder) -> None:
    spoken = np.flatnonzero((segment == _QUESTION) | (segment == _INSTRUCTION))
    pictures = np.flatnonzero(segment == _IMAGE)
    if spoken.size and pictures.size and (pictures[0] < spoken[0]) != (order == "image-first"):
        raise ModelError(
            f"The model's chat template does not allow prompt order {order!r}: it places the picture itself; "
            f"use {'question-first' if order == 'image-first' else 'image-first'!r}."
        )


def collate(encodings: Sequence[Encoding], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Model inputs of several prompts, padded on the left to the longest, so that every last token is at position -1."""
    if len(encodings) == 1:
        return dict(encodings[0].inputs)
    longest = max(len(encoding) for encoding in encodings)
    batch: dict[str, torch.Tensor] = {}
    for name in encodings[0].inputs:
        values = [encoding.inputs[name] for encoding in encodings]
        if name in _PER_TOKEN:
            fill = pad_token_id if name == "input_ids" else 0
            values = [torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=fill) for v in values]
        elif values[0].ndim == 5:  # tiles per picture differ: processors pad the same way
            most = max(v.shape[1] for v in values)
            values = [torch.nn.functional.pad(v, (0, 0) * 3 + (0, most - v.shape[1])) for v in values]
        batch[name] = torch.cat(values)
    return batch


def answer_ids(processor: Any, prompt_text: str, answer: str) -> list[int]:
    """The tokens of an answer as they would follow the prompt.

    The template decides whether a space stands between prompt and answer, and the tokenizer how it merges there, so both are asked.

    Raises
    ------
    AlignmentError
        Prompt and answer are not tokenised as the prompt's own tokens and then the answer's.
    """
    tokenizer = processor.tokenizer
    separator = _answer_separator(processor)
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt_text + separator + answer, add_special_tokens=False)["input_ids"]
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise AlignmentError(
            f"The answer {answer!r} merges with the end of the prompt ({prompt_text[-20:]!r}), so its tokens cannot be told apart; "
            "use a chat template whose generation prompt ends in a token of its own."
        )
    return whole[len(prompt) :]


def _answer_separator(processor: Any) -> str:
    """What the template writes between the generation prompt and the assistant's words (often nothing, or a space)."""
    open_turn = _apply(processor, [user_turn(_OPEN, 0)])
    closed = _apply(processor, [user_turn(_OPEN, 0), assistant_turn(_ASK)], generation=False).split(_ASK)[0]
    if not closed.startswith(open_turn):
        raise AlignmentError(
            "The chat template writes an assistant's turn that does not begin with its own generation prompt, so a reference cannot be "
            "placed; use a template where it does, or trace with answers=False."
        )
    return closed[len(open_turn) :]
