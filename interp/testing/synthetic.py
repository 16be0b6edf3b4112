"""A seeded trace without a model, in the schema of `interp.trace`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import xarray as xr

from interp.benchmarks.sample import Sample, image_sha256
from interp.capture.labels import assemble
from interp.capture.record import Record
from interp.encoding import SEGMENTS, Encoding
from interp.families.regions import grid
from interp.geometry import coverage
from interp.testing.asked import samples
from interp.vlm import VLM


def traces(n: int = 12, n_layers: int = 6, n_heads: int = 4, side: int = 6, seed: int = 0, prompt_order: str = "image-first") -> xr.Dataset:
    """A seeded trace without a model: the schema of `interp.trace`, and attention that finds the evidence in the later layers.

    Half of the answers are right; there, attention on the evidence is stronger.

    Parameters
    ----------
    n, n_layers, n_heads
        Size of the trace.
    side
        Visual tokens along an edge of the picture.
    """
    rng = np.random.default_rng(seed)
    asked = samples(n, seed)
    strength = np.linspace(0.0, 3.0, n_layers)[:, None, None] + rng.normal(0, 0.3, (1, n_heads, 1))
    records = []
    for i, sample in enumerate(asked):
        encoding = _written(sample, side)
        shares = np.full(len(encoding), np.nan)
        seen = encoding.segment == SEGMENTS.index("image")
        shares[seen] = coverage(encoding.token_boxes[seen], [r.box for r in sample.evidence], encoding.images[0].size)
        right = i % 2 == 0
        drive = strength * (1.5 if right else 0.7) * np.nan_to_num(shares) + rng.normal(0, 0.7, (n_layers, n_heads, len(encoding)))
        weights = np.exp(drive)
        record = Record(
            sample,
            encoding,
            tuple(image_sha256(image) for image in encoding.images),
            (weights / weights.sum(-1, keepdims=True)).astype(np.float32),
            shares,
            "visible",
        )
        logprob = float(-rng.exponential(0.5 if right else 2.0))
        record.scores |= {"entropy": float(rng.exponential(0.5)), "reference_logprob": logprob, "reference_logprob_mean": logprob / 2}
        record.answer(sample.references[0] if right else "nine nine", np.array([5, 3]))
        record.scores["seconds"] = 0.0
        records.append(record)
    model = SimpleNamespace(
        name=f"synthetic/{seed}",
        revision="",
        family=SimpleNamespace(model_type="synthetic"),
        dtype=torch.float32,
        prompt_order=prompt_order,
        n_layers=n_layers,
        n_heads=n_heads,
        layer_kinds=("full",) * n_layers,
        processor=SimpleNamespace(image_processor=None),
        image_options={},
        edits=(),
    )
    return assemble(records, cast(VLM, model), {"prompt": "base"})


def _written(sample: Sample, side: int) -> Encoding:
    """A prompt of one marker, the picture, the question's words and a marker, as an encoding without a tokenizer."""
    picture = sample.open_images()[0]
    cell, scale = (1.0, 1.0), (side / picture.width, side / picture.height)
    regions = grid(side, side, cell, (0.0, 0.0), scale, picture.size)
    words = sample.question.split()
    parts = ["template", *["image"] * len(regions), *["question"] * len(words), "template"]
    segment = np.array([SEGMENTS.index(part) for part in parts], dtype=np.int8)
    at = segment == SEGMENTS.index("image")

    def spread(values: Any, fill: float) -> Any:
        spread = np.full((len(parts), *values.shape[1:]), fill, dtype=values.dtype)
        spread[at] = values
        return spread

    return Encoding(
        inputs={},
        text="",
        token_ids=np.arange(len(parts)),
        token_text=("<s>", *["<image>"] * len(regions), *words, ":"),
        token_boxes=spread(regions.boxes, np.nan),
        token_scale=spread(regions.scale, np.nan),
        segment=segment,
        view=spread(regions.view, -1),
        row=spread(regions.row, -1),
        col=spread(regions.col, -1),
        image_index=spread(regions.image_index, -1),
        images=(picture,),
    )
