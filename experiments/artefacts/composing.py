"""Questions composed of several of benchmark `digits`: one picture beside another, one question after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import interp
from interp import prompts
from interp.benchmarks import Region
from interp.errors import InterpError

_QUESTION = "What is written on the {colour} card?"  # as the benchmark asks


def beside_another(samples: Sequence[interp.Sample]) -> list[interp.Sample]:
    """Each sample's picture beside one of another scene, in which no card has a colour that the question names.

    So the asked card stays the only one that fits, and an absent one stays absent. The asked picture comes first and second in turn (knob
    `asked_picture`); the other one is of the nearest following scene that fits, and all its cards are distractors.

    Raises
    ------
    InterpError
        The samples are not of `digits`, or too few for every question to find another scene.
    """
    shown = [_colours(sample) for sample in samples]
    composed = []
    for k, sample in enumerate(samples):
        words = sample.question.rstrip("?").split()
        # the asked card's colour too where it is asked for by its place
        named = {colour for colours in shown for colour in colours if colour in words} | {str(sample.knobs["colour"])}
        around = [(k + step) % len(samples) for step in range(1, len(samples))]
        fits = (j for j in around if samples[j].image_id != sample.image_id and named.isdisjoint(shown[j]))
        other = next(fits, None)
        if other is None:
            raise InterpError(f"No other scene goes beside sample {sample.id!r} (it names {', '.join(sorted(named))}); take more samples.")
        place = k % 2
        mine = [replace(region, image_index=place) for region in sample.regions]
        cards = samples[other].regions[: len(shown[other])]
        theirs = [Region(card.box, "distractor", card.text, 1 - place) for card in cards]
        pictures = [sample.open_images()[0], samples[other].open_images()[0]]
        knobs = {**sample.knobs, "asked_picture": place, "beside": samples[other].id}
        composed.append(replace(sample, images=tuple(pictures[:: 1 - 2 * place]), regions=(*mine, *theirs), knobs=knobs))
    return composed


def after_another(samples: Sequence[interp.Sample]) -> list[interp.Sample]:
    """Each sample with an earlier question about another card of its scene, and that card's answer, as knobs `earlier_question`,
    `earlier_answer`.

    Which card, goes round the scene's others, so that the earlier answer says nothing about the later one.

    Raises
    ------
    InterpError
        The samples are not of `digits`.
    """
    composed = []
    for k, sample in enumerate(samples):
        cards = list(zip(_colours(sample), sample.regions, strict=False))  # the cards come before the digits on them
        others = [(colour, region.text) for colour, region in cards if region.role != "evidence"]
        colour, answer = others[k % len(others)]
        knobs = {**sample.knobs, "earlier_question": _QUESTION.format(colour=colour), "earlier_answer": str(answer)}
        composed.append(replace(sample, knobs=knobs))
    return composed


class Conversation(interp.VLM):
    """A model that is asked every question after an earlier one, of the sample's knobs, with the answer that was right.

    Both turns are worded alike, as pictures stand in the first: what is said of a highlight is said where the picture is.
    """

    @classmethod
    def of(cls, vlm: interp.VLM) -> Conversation:
        """The same model, sharing its weights."""
        options = vlm.image_options or None
        return cls(vlm.hf_model, vlm.processor, vlm.prompt_order, name=vlm.name, revision=vlm.revision, image_options=options)

    def encode(self, sample: interp.Sample, prompt: str = "base", history: Sequence[tuple[str, str]] = ()) -> Any:
        """As a `VLM` does, with the earlier turn."""
        asked, said = (str(sample.knobs[name]) for name in ("earlier_question", "earlier_answer"))
        return super().encode(sample, prompt, history or [(prompts.word(prompt, asked).text, said)])


def _colours(sample: interp.Sample) -> list[str]:
    if "colours" not in sample.knobs or len(sample.images) != 1:
        raise InterpError(
            f"Sample {sample.id!r} is of {sample.dataset!r}, of which nothing can be composed; reproduce this with --benchmark digits."
        )
    return str(sample.knobs["colours"]).split()
