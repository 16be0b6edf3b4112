"""What a checkpoint is asked in its examination: seeded pictures of three shapes, and what several checks read off them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.capture.attention import serving_rows
from interp.capture.forward import prefill
from interp.capture.selfcheck import SelfCheck
from interp.encoding import Encoding
from interp.errors import InterpError
from interp.prompts import word
from interp.rendering import render
from interp.vlm import VLM

SHAPES: dict[str, tuple[int, int]] = {"square": (384, 384), "wide": (640, 256), "tall": (256, 576)}  # (width, height) in pixels
GREY = 128

# of different lengths, so that a batch of them is padded whatever the pictures are
_QUESTIONS = (
    "What colour is the largest card?",
    "Which number is written on the card to the left of the red one?",
    "Which of the cards is the one on the right, and what is its colour, if there is any?",
)


class NotJudged(Exception):
    """A check has nothing to stand on; its message says why."""


def sentence(error: Exception) -> str:
    """An error as one sentence: its own where it is one of this package, else its type and the last line it says."""
    if isinstance(error, InterpError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[-1]}"


@dataclass(frozen=True, eq=False)
class Prefilled:
    """One prompt's forward pass.

    Parameters
    ----------
    rows
        (layer, head, token) float32, the last prompt token's row as the model gave it.
    watch
        The comparison of these rows with the model's own values.
    """

    rows: NDArray[np.float32]
    watch: SelfCheck


@dataclass(eq=False)
class Subject:
    """A model under examination. What several checks need is computed once.

    Parameters
    ----------
    vlm
        The model.
    seed
        Of the pictures, and of where markers are drawn.
    """

    vlm: VLM
    seed: int = 0
    refused: dict[str, Exception] = field(default_factory=dict, init=False)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """A sample per shape."""
        return {
            shape: Sample(shape, _picture(size, self.seed + k), question, "one")
            for k, ((shape, size), question) in enumerate(zip(SHAPES.items(), _QUESTIONS, strict=True))
        }

    @cached_property
    def encodings(self) -> Mapping[str, Encoding]:
        """The shapes that become prompts; `refused` holds the errors of the others."""
        made: dict[str, Encoding] = {}
        for shape, sample in self.samples.items():
            try:
                made[shape] = self.vlm.encode(sample)
            except Exception as error:  # a processor that is not known yet can fail in any way; `tokens` reports it
                self.refused[shape] = error
        return made

    @property
    def prompts(self) -> Mapping[str, Encoding]:
        """`encodings`, for checks that stand on them.

        Raises
        ------
        NotJudged
            There are none.
        """
        if not self.encodings:
            raise NotJudged("no picture became a prompt")
        return self.encodings

    def rendered(self) -> None:
        """Render the chat template in the model's own prompt order.

        Raises
        ------
        AlignmentError
            The template changes the user's words.
        """
        render(self.vlm.processor, word("base", _QUESTIONS[0]), 1, self.vlm.prompt_order)

    @cached_property
    def prefilled(self) -> Mapping[str, Prefilled]:
        """The forward pass of every prompt, alone, watched."""
        found: dict[str, Prefilled] = {}
        with serving_rows(self.vlm.hf_model):
            for shape, encoding in self.prompts.items():
                with SelfCheck(self.vlm.layers) as watch:
                    outputs = prefill(self.vlm, [encoding], use_cache=False).outputs
                rows = np.stack([layer[0, :, 0].float().cpu().numpy() for layer in outputs.attentions])
                found[shape] = Prefilled(rows, watch)
        return found


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A grey picture of `size` (width, height) with cards of random colours."""
    random = np.random.default_rng(seed)
    width, height = size
    pixels = np.full((height, width, 3), GREY, dtype=np.uint8)
    for _ in range(6):
        x, y = int(random.uniform(0, width * 0.8)), int(random.uniform(0, height * 0.8))
        pixels[y : y + height // 4, x : x + width // 5] = random.integers(0, 256, 3)
    return Image.fromarray(pixels)
