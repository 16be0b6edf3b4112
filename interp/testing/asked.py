"""Seeded samples: noise pictures, word-salad questions, marked boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from interp.benchmarks.sample import Region, Sample
from interp.errors import InterpError
from interp.testing.words import WORDS
from interp.vlm import VLM

_BENCH_EDGE = 112  # pixels of a picture's edge


def samples(n: int, seed: int = 0, n_images: int = 1) -> list[Sample]:
    """Seeded samples: noise pictures of various shapes, word-salad questions of various lengths (any three in a row differ),
    one or two evidence boxes and a distractor.
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        pictures = [_picture(rng, *(int(v) for v in rng.integers(30, 90, 2))) for _ in range(n_images)]
        regions = [_region(rng, *pictures[0].size, "evidence") for _ in range(1 + i % 2)]
        regions.append(_region(rng, *pictures[0].size, "distractor"))
        question = "what is the " + " ".join(rng.choice(WORDS, 1 + 3 * (i % 3) + int(rng.integers(3)))) + " ?"
        references = ["one"] if i % 3 else ["two", "two three"]
        made.append(
            Sample(
                f"synthetic-{seed}-{i}",
                pictures,
                question,
                references,
                regions,
                image_id=f"picture-{seed}-{i // 2}",
                dataset="synthetic",
                split="test",
                knobs={"cards": i % 4, "arm": "neutral" if i % 2 else "conflict"},
            )
        )
    return made


def bench_samples(vlm: VLM, n_tokens: int, n: int = 1, seed: int = 0) -> list[Sample]:
    """Samples whose base prompt has exactly `n_tokens` tokens for `vlm`: the question is filled up with words.

    Raises
    ------
    InterpError
        The picture and the wording alone take more than `n_tokens`.
    """
    rng = np.random.default_rng(seed)
    edge = _BENCH_EDGE
    picture = _picture(rng, edge, edge)
    shortest = len(vlm.encode(Sample("bench", picture, "is", "one")))
    if n_tokens < shortest:
        raise InterpError(f"A prompt of {n_tokens} tokens is too short for this model; use {shortest} or more.")
    return [
        Sample(f"bench-{i}", _picture(rng, edge, edge), " ".join(rng.choice(WORDS, n_tokens - shortest + 1)), "one", image_id=str(i))
        for i in range(n)
    ]


def _region(rng: np.random.Generator, width: int, height: int, role: Any) -> Region:
    x, y = rng.uniform(0, width * 0.7), rng.uniform(0, height * 0.7)
    return Region((x, y, x + width * rng.uniform(0.1, 0.3), y + height * rng.uniform(0.1, 0.3)), role)


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
