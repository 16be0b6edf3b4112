"""Traces and answers whose truth is known, because it was planted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from interp.capture.labels import describe
from interp.encoding import SEGMENTS
from interp.errors import InterpError

_TEXT = np.dtypes.StringDType()


def planted(
    n: int = 80,
    seen: float = 0.5,
    effect: float = 0.5,
    *,
    null: bool = False,
    seed: int = 0,
    per_image: int = 2,
    n_layers: int = 4,
    n_heads: int = 4,
    side: int = 8,
) -> xr.Dataset:
    """A trace whose truth is known: who saw the evidence, who could read it, and what seeing does to the answer.

    Pictures of 112 x 112 pixels hold two to five cards of one size and one digit each; a sample asks for one of them, the others are
    distractors. In the later half of the layers a sample that sees looks at the card it was asked for, one that does not looks at
    another. Samples of one picture share its cards, how much attention it draws, part of the noise, and mostly their luck: a test that
    takes them for independent finds effects that are not there. Every tenth picture is asked for a card that is absent. All is drawn
    at once, without pictures or a tokenizer, so that hundreds of data sets take seconds.

    Parameters
    ----------
    n, per_image
        Samples, and how many of them share a picture (at most 2, the fewest cards there are).
    seen
        Share of the samples that see the evidence. The truth is the coordinate `planted_seen`; `planted_readable`, drawn for 70 %,
        is independent of it.
    effect
        How much likelier those that see are to answer right: 0.5 + effect / 2 against 0.5 - effect / 2.
    null
        Attention is noise and answers are coins: nobody sees, and nothing has an effect.
    n_layers, n_heads, side
        Size of the trace; `side` visual tokens along an edge.

    Raises
    ------
    InterpError
        `per_image` is neither 1 nor 2.
    """
    if per_image not in (1, 2):
        raise InterpError(f"per_image={per_image} samples cannot share a picture of two cards; use 1 or 2.")
    rng = np.random.default_rng([seed, 20251017])
    image = np.arange(n) // per_image
    n_images = int(image[-1]) + 1
    n_cards = rng.integers(2, 6, n_images)
    size = rng.integers(22, 29, n_images)
    cards = _cards(rng, n_cards, size, 112)[image]
    texts = rng.integers(0, 10, (n_images, 5))[image]
    absent = (image % 10) == 9
    asked, other = np.arange(n) % per_image, 1 - np.arange(n) % per_image
    sees = (rng.random(n) < seen) & (not null) & ~absent
    luck = _luck(rng, n, per_image)
    right = luck < (0.5 if null else np.where(sees, 0.5 + effect / 2, 0.5 - effect / 2))

    edges = np.arange(side + 1) * (112 / side)
    low, high = np.meshgrid(edges[:-1], edges[:-1]), np.meshgrid(edges[1:], edges[1:])
    grid_boxes = np.stack([*low, *high], axis=-1).reshape(-1, 4)
    rows = np.arange(n)
    shares = _grid_shares(cards[rows, asked], edges)
    looked = np.where(sees[:, None], shares, _grid_shares(cards[rows, other], edges)) * (not null)
    words = ["what", "is", "on", "the", "card"]
    n_tokens = 1 + side * side + len(words) + 1
    visual = slice(1, 1 + side * side)
    drive = 0.5 * rng.standard_normal((n_images, n_layers, n_heads, n_tokens), dtype=np.float32)[image]
    drive += 0.5 * rng.standard_normal((n, n_layers, n_heads, n_tokens), dtype=np.float32)
    drive[..., visual] += rng.standard_normal((n_images, 1, 1, 1), dtype=np.float32)[image] - 2
    drive[:, n_layers // 2 :, :, visual] += 2 * looked[:, None, None].astype(np.float32)
    weights = np.exp(drive)

    def spread(values: Any, fill: float, dtype: Any = np.float64) -> Any:
        table = np.full((n, n_tokens, *values.shape[2:]), fill, dtype=dtype)
        table[:, visual] = values
        return table

    segment = np.array([SEGMENTS.index(part) for part in ["template", *["image"] * side**2, *["question"] * len(words), "template"]])
    present = np.arange(5) < n_cards[image][:, None]
    role = np.where(present, "distractor", "")
    role[rows[~absent], asked[~absent]] = "evidence"
    reference = texts[rows, asked]
    said = np.where(right, reference, (reference + 1 + rng.integers(0, 9, n)) % 10).astype(str)
    ones = right.astype(np.float64)
    token = ("sample", "token")
    variables: dict[str, Any] = {
        "attention": (("sample", "layer", "head", "token"), weights / weights.sum(-1, keepdims=True)),
        "coverage": (token, spread(np.where(absent[:, None], 0.0, shares), np.nan)),
        "question": ("sample", np.full(n, " ".join(words)).astype(_TEXT)),
        "references": ("sample", np.array([json.dumps([str(value)]) for value in reference], dtype=_TEXT)),
        "prediction": ("sample", said.astype(_TEXT)),
        "answer_ids": (("sample", "step"), np.stack([said.astype(np.int64), np.full(n, 3)], axis=1)),
        "evidence_box": (("sample", "evidence", "corner"), np.where(present[..., None], cards, np.nan)),
        "evidence_image": (("sample", "evidence"), np.where(present, 0, -1).astype(np.int32)),
        "evidence_role": (("sample", "evidence"), role.astype(_TEXT)),
        "evidence_text": (("sample", "evidence"), np.where(present, texts.astype(str), "").astype(_TEXT)),
        "image_size": (("sample", "image", "axis"), np.full((n, 1, 2), 112, np.int32)),
        "image_uri": (("sample", "image"), np.full((n, 1), "memory:").astype(_TEXT)),
        "image_sha256": (("sample", "image"), np.array([[f"{seed:032x}{i:032x}"] for i in image], dtype=_TEXT)),
        **{name: ("sample", ones) for name in ("exact_match", "contains", "token_f1", "anls", "vqa_accuracy")},
        "entropy": ("sample", rng.exponential(0.5, n)),
        "reference_logprob": ("sample", -rng.exponential(np.where(right, 0.5, 2.0))),
        "seconds": ("sample", np.zeros(n)),
    }
    variables["reference_logprob_mean"] = ("sample", variables["reference_logprob"][1] / 2)
    cells = np.arange(side * side)
    coordinates: dict[str, Any] = {
        "sample": np.array([f"planted-{seed}-{i}" for i in range(n)], dtype=_TEXT),
        "layer": np.arange(n_layers),
        "head": np.arange(n_heads),
        "corner": np.array(["x0", "y0", "x1", "y1"], dtype=_TEXT),
        "axis": np.array(["width", "height"], dtype=_TEXT),
        "segment": (token, np.tile(segment.astype(np.int8), (n, 1))),
        "token_box": ((*token, "corner"), spread(grid_boxes[None], np.nan)),
        "view": (token, spread(np.zeros((1, side * side)), -1, np.int32)),
        "row": (token, spread(cells[None] // side, -1, np.int32)),
        "col": (token, spread(cells[None] % side, -1, np.int32)),
        "image_index": (token, spread(np.zeros((1, side * side)), -1, np.int32)),
        "token_id": (token, np.tile(np.arange(n_tokens), (n, 1))),
        "token_text": (token, np.tile(np.array(["<s>", *["<image>"] * side**2, *words, ":"], dtype=_TEXT), (n, 1))),
        "n_token": ("sample", np.full(n, n_tokens)),
        "layer_kind": ("layer", np.full(n_layers, "full").astype(_TEXT)),
        "dataset": ("sample", np.full(n, "planted").astype(_TEXT)),
        "split": ("sample", np.full(n, "test").astype(_TEXT)),
        "image_id": ("sample", np.array([f"planted-{seed}-picture-{i}" for i in image], dtype=_TEXT)),
        "visibility": ("sample", np.where(absent, "none", "visible").astype(_TEXT)),
        "knob_absent": ("sample", absent),
        "knob_n_cards": ("sample", n_cards[image]),
        "knob_card_size": ("sample", size[image]),
        "knob_contrast": ("sample", rng.uniform(0.6, 1.0, n_images)[image]),
        "planted_seen": ("sample", sees),
        "planted_readable": ("sample", rng.random(n) < 0.7),
    }
    source = {
        "model": "planted",
        "revision": "",
        "family": "synthetic",
        "dtype": "float32",
        "prompt": "base",
        "prompt_order": "image-first",
    }
    return describe(xr.Dataset(variables, coords=coordinates, attrs={**source, "benchmark": "planted", "split": "test"}))


def planted_answers(n: int = 80, gains: Mapping[str, float] | None = None, *, seed: int = 0, per_image: int = 2) -> xr.Dataset:
    """Answers of `base`, right half of the time, and of further methods that gain a known accuracy over it, (method, sample).

    Parameters
    ----------
    gains
        Per method, its accuracy less that of `base`, from -0.4 to 0.4; 0 is a method without effect. A tenth of the answers changes
        either way, and more of one kind by the gain. By default ``{"inst": 0.0, "vea": 0.2}``.
    per_image
        How many samples share a picture; they mostly share their luck.
    """
    wanted = {"inst": 0.0, "vea": 0.2} if gains is None else dict(gains)
    rng = np.random.default_rng([seed, 20251020])
    base = _luck(rng, n, per_image) < 0.5
    scores = [base]
    for gain in wanted.values():
        change = 0.2 + 2 * np.where(base, max(-gain, 0), max(gain, 0))
        scores.append(np.where(_luck(rng, n, per_image) < change, ~base, base))
    image = np.arange(n) // per_image
    return xr.Dataset(
        {"exact_match": (("method", "sample"), np.array(scores, dtype=np.float64))},
        coords={
            "method": np.array(["base", *wanted], dtype=_TEXT),
            "sample": np.array([f"planted-{seed}-{i}" for i in range(n)], dtype=_TEXT),
            "image_id": ("sample", np.array([f"planted-{seed}-picture-{i}" for i in image], dtype=_TEXT)),
        },
    )


def _luck(rng: np.random.Generator, n: int, per_image: int) -> Any:
    """Uniform numbers (n,), of which samples of one picture share theirs nine times in ten."""
    own, first = rng.random(n), np.arange(n) // per_image * per_image
    return np.where(rng.random(n) < 0.9, own[first], own)


def _cards(rng: np.random.Generator, counts: Any, sizes: Any, edge: int) -> Any:
    """(picture, 5, 4) squares of each picture's size anywhere in it, of which the first `counts` do not overlap.

    Crowded pictures are drawn again as a whole: any other way would give the first card other places than the last.
    """
    corners = np.zeros((len(counts), 5, 2))
    open_ones = np.arange(len(counts))
    while open_ones.size:
        size = sizes[open_ones]
        corners[open_ones] = rng.integers(0, edge - size[:, None, None] + 1, (open_ones.size, 5, 2))
        drawn = corners[open_ones]
        near = (np.abs(drawn[:, :, None] - drawn[:, None]) < size[:, None, None, None]).all(-1)
        real = np.arange(5) < counts[open_ones][:, None]
        clash = (near & real[:, :, None] & real[:, None] & ~np.eye(5, dtype=bool)).any((1, 2))
        open_ones = open_ones[clash]
    return np.concatenate([corners, corners + sizes[:, None, None]], axis=-1)


def _grid_shares(boxes: Any, edges: Any) -> Any:
    """Share (n, token) of each cell of a grid that a box (n, 4) covers: an outer product, since both are upright."""
    x, y = (
        np.clip(np.minimum(boxes[:, axis + 2, None], edges[1:]) - np.maximum(boxes[:, axis, None], edges[:-1]), 0, None) for axis in (0, 1)
    )
    return (y[:, :, None] * x[:, None, :]).reshape(len(boxes), -1) / (edges[1] - edges[0]) ** 2
