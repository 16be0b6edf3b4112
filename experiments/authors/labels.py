"""Which visual tokens are evidence: by the authors' three adapters, and exactly.

A grid lies on the picture by a scale and an offset: a point p of the original is at ``p * scale - offset`` in the rendering, whose cells
are `cell` pixels. Numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Size = tuple[float, float]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Placement:
    """A grid (columns, rows) of `cell` pixels over the rendering of a picture."""

    shape: tuple[int, int]
    cell: float
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def place(self, box: Box) -> Box:
        """A box of the original, in pixels of the rendering."""
        x0, y0, x1, y1 = (value * self.scale[k % 2] - self.offset[k % 2] for k, value in enumerate(box))
        return x0, y0, x1, y1

    def exact(self, box: Box) -> Labels:
        """(row, column): whether a cell shares some area with the box."""
        x0, y0, x1, y1 = self.place(box)
        starts, ends = (tuple(np.arange(n) * self.cell + shift for n in self.shape) for shift in (0.0, self.cell))
        along_x, along_y = (
            (np.minimum(end, high) > np.maximum(start, low)) for start, end, low, high in zip(starts, ends, (x0, y0), (x1, y1), strict=True)
        )
        return along_y[:, None] & along_x[None, :]

    def theirs(self, box: Box) -> Labels:
        """The same through a mask of whole pixels: both ends floored, the upper one clamped to the last pixel, and then left out."""
        spans = []
        placed = self.place(box)
        for axis, cells in enumerate(self.shape):
            pixels = int(cells * self.cell)
            low, high = max(math.floor(placed[axis]), 0), min(math.floor(placed[axis + 2]), pixels - 1)
            mask = np.zeros(pixels, dtype=bool)
            mask[low : max(high, low)] = True
            spans.append(mask.reshape(cells, -1).any(axis=1))
        return spans[1][:, None] & spans[0][None, :]

    def flagged(self, box: Box) -> bool:
        """Whether their adapter calls the box out of the picture (one that ends exactly at the edge is not, for them)."""
        x0, y0, x1, y1 = self.place(box)
        width, height = (cells * self.cell for cells in self.shape)
        return x1 < 0 or y1 < 0 or x0 >= width or y0 >= height

    def inside(self, box: Box) -> float:
        """Share of the box's area that the rendering keeps."""
        x0, y0, x1, y1 = self.place(box)
        width, height = (cells * self.cell for cells in self.shape)
        kept = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
        return kept / ((x1 - x0) * (y1 - y0))


def centre_crop(size: Size, side: int, cell: int) -> Placement:
    """The shorter side resized to `side`, the centre cropped: LLaVA-1.5 (336, 14), and what the authors take Gemma 3 (896, 56) for."""
    scale = side / min(size)
    long = (round(size[0] * scale), round(size[1] * scale))
    return Placement((side // cell, side // cell), cell, (scale, scale), ((long[0] - side) / 2, (long[1] - side) / 2))


def squash(size: Size, side: int, cell: int) -> Placement:
    """Both sides resized to `side`, as the processor of Gemma 3 (896, 56) does."""
    return Placement((side // cell, side // cell), cell, (side / size[0], side / size[1]))


def whole_cells(size: Size, cell: int = 28, least: int = 56 * 56, most: int = 512 * 512) -> Placement:
    """Each side resized to whole cells, the area between `least` and `most` pixels: Qwen2.5-VL, with the authors' upper limit."""
    width, height = size
    sides = [round(width / cell), round(height / cell)]
    if sides[0] * sides[1] * cell**2 > most:
        shrink = math.sqrt(width * height / most)
        sides = [max(1, math.floor(side / shrink / cell)) for side in size]
    elif sides[0] * sides[1] * cell**2 < least:
        grow = math.sqrt(least / (width * height))
        sides = [math.ceil(side * grow / cell) for side in size]
    return Placement((sides[0], sides[1]), cell, (sides[0] * cell / width, sides[1] * cell / height))
