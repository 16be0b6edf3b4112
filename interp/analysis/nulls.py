"""Where the evidence might have been: copies of its boxes elsewhere in the same picture, and what share of each token they cover.

Boxes are ``(x0, y0, x1, y1)`` in pixels of an original picture. A *set* is several boxes that belong together, each on a picture of its
own number; a copy of a set moves its boxes of one picture together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from interp.geometry import area

_Floats = NDArray[np.float64]
_Ints = NDArray[np.integer]

_SLACK = 1e-6  # pixels: token boxes carry the rounding of their geometry


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens a map is judged on: `boxes` (token, 4), inside their pictures, and `images` (token,), the picture of each."""

    boxes: _Floats
    images: _Ints

    @classmethod
    def of(cls, boxes: _Floats, images: _Ints, sizes: _Floats) -> Tokens:
        """Token regions clipped to their pictures; `sizes` (image, 2) are widths and heights."""
        limits = sizes[images]
        return cls(np.clip(boxes, 0.0, np.concatenate([limits, limits], axis=1)), images)

    def extent(self, image: int) -> _Floats:
        """The smallest box (4,) around the tokens of one picture: what the model can see of it."""
        mine = self.boxes[self.images == image]
        return np.concatenate([mine[:, :2].min(axis=0), mine[:, 2:].max(axis=0)])

    @cached_property
    def _sides(self) -> list[tuple[_Floats, _Ints]]:
        """Along x and along y: the different extents (side, 2) of the tokens' regions, and which one each token has."""
        return [np.unique(self.boxes[:, [axis, axis + 2]], axis=0, return_inverse=True) for axis in (0, 1)]

    def shares(self, boxes: _Floats, images: _Ints) -> _Floats:
        """Share (set, token) of each token's region that each set covers.

        `boxes` (set, part, 4), where the parts of a set must not overlap each other, and `images` (part,).
        """
        covered = np.zeros((len(self.boxes), len(boxes)))
        for part, image in enumerate(images):
            # Tokens of a grid share their sides, so overlaps are computed once for each column and each row of it.
            overlaps = [_overlap(sides, boxes[:, part, axis], boxes[:, part, axis + 2]) for axis, (sides, _) in enumerate(self._sides)]
            mine = np.flatnonzero(self.images == image)
            covered[mine] += overlaps[0][self._sides[0][1][mine]] * overlaps[1][self._sides[1][1][mine]]
        return np.minimum(covered / area(self.boxes)[:, None], 1.0).T


@dataclass(frozen=True, eq=False)
class BoxSet:
    """One set without overlaps: `boxes` (part, 4) on the pictures `images` (part,)."""

    boxes: _Floats
    images: _Ints

    @classmethod
    def of(cls, boxes: _Floats, images: _Ints, tokens: Tokens) -> BoxSet:
        """The union of boxes, kept to what the tokens of their pictures cover, as parts that do not overlap."""
        parts, pictures = [np.empty((0, 4))], [np.empty(0, dtype=np.int64)]
        for image in np.unique(images):
            if not (tokens.images == image).any():
                continue
            extent = tokens.extent(image)
            kept = np.concatenate(
                [np.maximum(boxes[images == image, :2], extent[:2]), np.minimum(boxes[images == image, 2:], extent[2:])], 1
            )
            parts.append(_disjoint(kept[area(kept) > 0]))
            pictures.append(np.full(len(parts[-1]), image, dtype=np.int64))
        return cls(np.concatenate(parts), np.concatenate(pictures))

    def copies(self, tokens: Tokens, n: int, rng: np.random.Generator, *, off: bool) -> _Floats:
        """At most `n` shifted copies (copy, part, 4) inside what the tokens cover.

        Every shift is a whole number of pixels, because annotated boxes are: another phase would touch other numbers of tokens. With
        `off`, no copy overlaps the set itself and no two are the same; fewer come back where there is no room.
        """
        pictures, group = np.unique(self.images, return_inverse=True)
        low, high = self._room(tokens, pictures)
        if not off:
            return self._shifted(rng.integers(low, high + 1, size=(n, len(pictures), 2)), group)
        for tries in (4 * n, 64 * n):
            shifts = rng.integers(low, high + 1, size=(tries, len(pictures), 2))
            _, first = np.unique(_numbered(shifts - low, high - low + 1), return_index=True)
            candidates = self._shifted(shifts[np.sort(first)], group)
            free = candidates[self.apart(candidates, self.boxes[None])[:, 0]]
            if len(free) >= n:
                break
        return free[:n]

    def apart(self, some: _Floats, others: _Floats) -> NDArray[np.bool_]:
        """(some, other): whether two copies (copy, part, 4) of this set overlap nowhere."""
        touching = np.zeros((len(some), len(others)), dtype=bool)
        for a, here in enumerate(self.images):
            for b in np.flatnonzero(self.images == here):
                (x0, y0, x1, y1), (left, top, right, bottom) = some[:, a, :, None].transpose(1, 0, 2), others[:, b].T - _SLACK
                touching |= (x0 < right) & (left < x1 - 2 * _SLACK) & (y0 < bottom) & (top < y1 - 2 * _SLACK)
        return ~touching

    def _room(self, tokens: Tokens, pictures: _Ints) -> tuple[_Ints, _Ints]:
        """Least and greatest whole shifts (picture, 2) that keep each picture's boxes inside its tokens."""
        low, high = np.empty((len(pictures), 2), dtype=np.int64), np.empty((len(pictures), 2), dtype=np.int64)
        for index, image in enumerate(pictures):
            mine, extent = self.boxes[self.images == image], tokens.extent(image)
            low[index] = np.ceil(extent[:2] - mine[:, :2].min(axis=0) - _SLACK)
            high[index] = np.floor(extent[2:] - mine[:, 2:].max(axis=0) + _SLACK)
        return low, high

    def _shifted(self, shifts: _Ints, group: _Ints) -> _Floats:
        return self.boxes + np.tile(shifts[:, group], 2)


def _overlap(sides: _Floats, low: _Floats, high: _Floats) -> _Floats:
    """Length (side, box) that two extents share."""
    return np.maximum(np.minimum(sides[:, 1:], high) - np.maximum(sides[:, :1], low), 0.0)


def _numbered(shifts: _Ints, spans: _Ints) -> _Ints:
    """One number (copy,) for each combination of shifts (copy, picture, 2)."""
    return shifts.reshape(len(shifts), -1) @ np.cumprod([1, *spans.ravel()[:-1]])


def _disjoint(boxes: _Floats) -> _Floats:
    """The union of boxes as boxes that do not overlap: rows between its own horizontal edges, cut into runs."""
    kept: list[_Floats] = []
    for box in boxes[np.argsort(-area(boxes), kind="stable")]:  # the whole card before its digits
        if not any((box[:2] >= other[:2]).all() and (box[2:] <= other[2:]).all() for other in kept):
            kept.append(box)
    if len(kept) < 2:
        return np.asarray(kept).reshape(-1, 4)
    whole = np.asarray(kept)
    runs: list[tuple[float, float, float, float]] = []
    edges = np.unique(whole[:, [1, 3]])
    for top, bottom in pairwise(edges):
        spans = sorted((b[0], b[2]) for b in whole if b[1] <= top and bottom <= b[3])
        joined: list[list[float]] = []
        for left, right in spans:
            if joined and left <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], right)
            else:
                joined.append([left, right])
        runs += [(left, top, right, bottom) for left, right in joined]
    return np.asarray(runs).reshape(-1, 4)
