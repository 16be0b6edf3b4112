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
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.errors import AlignmentError, ModelError, SampleError
from interp.families import Family, TokenRegions
from interp.prompts import PromptOrder, word
from interp.rendering import History, Rendered, Span, answer_separator, refuse_control, render

SEGMENTS = ("system", "image", "question", "instruction", "template")
PADDING = -1  # the segment of positions past the end of a prompt

_SYSTEM, _IMAGE, _QUESTION, _INSTRUCTION, _TEMPLATE = range(len(SEGMENTS))
_PER_PICTURE = ("_thw", "_sizes", "_num_images")  # how the names of inputs end that have a row for every picture
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
    sample_id, image_id
        Whose prompt it is.
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
    sample_id: str = ""
    image_id: str = ""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def question_tokens(self) -> NDArray[np.int64]:
        """Positions of the question's tokens."""
        return np.flatnonzero(self.segment == _QUESTION)


def encode(processor: Any, config: Any, family: Family, sample: Sample, prompt: str, order: PromptOrder, history: History = ()) -> Encoding:
    """A sample as model inputs with the origin of every token. See `Encoding`.

    Raises
    ------
    AlignmentError
        Question, tokens and image regions do not line up; a text holds a special token; or the processor leaves out, or contradicts, what
        the model must know of the pictures.
    ModelError
        The chat template cannot put the picture where `order` wants it.
    SampleError
        The processor does not take such a picture (of too elongated a shape, say), or it cannot be opened.
    """
    images = tuple(sample.open_images())
    wording = word(prompt, sample.question.strip())
    refuse_control(processor, wording.text, f"Sample {sample.id!r}: the prompt {wording.text!r}")
    for said in (said for turn in history for said in turn):
        refuse_control(processor, said, f"Sample {sample.id!r}: the earlier turn {said!r}")
    rendered = render(processor, wording, len(images), order, history)
    bos = processor.tokenizer.bos_token
    try:
        outputs = processor(
            text=[rendered.text],
            images=[list(images)],  # nested: some families treat several pictures of one prompt differently
            return_tensors="pt",
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            # a template that writes the first token itself must not get it twice
            add_special_tokens=not (bos is not None and rendered.text.startswith(bos)),
        )
    except ValueError as error:
        raise SampleError(
            f"Sample {sample.id!r}: processor {type(processor).__name__} cannot prepare picture(s) of {[image.size for image in images]} "
            f"pixels ({' '.join(str(error).split())}); leave the sample out, or give pictures that this model takes."
        ) from error
    inputs = dict(outputs)
    offsets = np.asarray(inputs.pop("offset_mapping")[0], dtype=np.int64)
    replaced = inputs.pop("text_replacement_offsets", None)
    if not replaced:
        raise AlignmentError(
            f"Processor {type(processor).__name__} does not say where it put the pictures; use a processor of transformers 5."
        )
    shift = _Shift(rendered.text, replaced[0])
    _check_pictures(processor, inputs, images, sample)
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
        sample_id=sample.id,
        image_id=sample.image_id,
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
    offsets: NDArray[np.int64], is_image: NDArray[np.bool_], rendered: Rendered, shift: _Shift, sample: Sample
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


def _check_pictures(processor: Any, inputs: Mapping[str, Any], images: Sequence[Image.Image], sample: Sample) -> None:
    """What tells the model about its pictures must be there, and true of them: many a model runs without, or on something else."""
    promised = {*processor.image_processor.model_input_names, *(name for name in _PER_TOKEN if name.endswith("type_ids"))}
    lacking = [name for name in getattr(processor, "model_input_names", ()) if name in promised and name not in inputs]
    if lacking:
        raise AlignmentError(
            f"Sample {sample.id!r}: processor {type(processor).__name__} lists {', '.join(lacking)} among the model's inputs but did not "
            "return it, and the model would go on without; do not switch it off, or use the checkpoint's own processor."
        )
    true = {"image_sizes": [[image.height, image.width] for image in images], "batch_num_images": [len(images)]}
    for name, expected in true.items():
        if name in inputs and (said := inputs[name].tolist()) != expected:
            raise AlignmentError(
                f"Sample {sample.id!r}: processor {type(processor).__name__} returned {name}={said}, where the pictures of the prompt make "
                f"it {expected}; use the checkpoint's own processor, which takes the pictures as they are."
            )


def _regions(
    processor: Any, config: Any, family: Family, images: Sequence[Image.Image], inputs: Mapping[str, Any], sample: Sample, found: int
) -> TokenRegions:
    arrays = {name: value.numpy() for name, value in inputs.items() if name.endswith(_PER_PICTURE)}
    try:
        parts = [family.image_regions(processor, config, image.size, index, arrays) for index, image in enumerate(images)]
    except (KeyError, IndexError) as error:
        if isinstance(error, KeyError) and not str(error.args[0]).endswith(_PER_PICTURE):
            raise
        raise AlignmentError(
            f"Sample {sample.id!r}: processor {type(processor).__name__} does not describe all {len(images)} picture(s) of the prompt "
            f"({error}); use the checkpoint's own processor."
        ) from error
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
    """Model inputs of several prompts, padded on the left to the longest, so that every last token is at position -1.

    The prompts may hold different numbers of pictures, and the pictures different numbers of tiles.

    Raises
    ------
    AlignmentError
        The prompts do not have the same inputs.
    """
    if len(encodings) == 1:
        return dict(encodings[0].inputs)
    held = [set(encoding.inputs) for encoding in encodings]
    if odd := sorted(set.union(*held) - set.intersection(*held)):
        raise AlignmentError(f"Some prompts of a batch lack {', '.join(odd)}; encode all with one processor, and leave their inputs whole.")
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
        Prompt and answer are not tokenised as the prompt's own tokens and then the answer's, or the answer holds a special token.
    """
    refuse_control(processor, answer, f"The answer {answer!r}")
    tokenizer = processor.tokenizer
    separator = answer_separator(processor)
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt_text + separator + answer, add_special_tokens=False)["input_ids"]
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise AlignmentError(
            f"The answer {answer!r} merges with the end of the prompt ({prompt_text[-20:]!r}), so its tokens cannot be told apart; "
            "use a chat template whose generation prompt ends in a token of its own."
        )
    return whole[len(prompt) :]
