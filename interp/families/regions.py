"""What every model family answers: which box of the original picture each visual token stands for.

Boxes are ``(x0, y0, x1, y1)`` in pixels of the original picture, half-open. A *view* is one rendering of the picture that the
model sees (the whole picture squashed, a tile of it, a thumbnail); within a view, tokens sit in a grid of rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # (width, height) of an original picture


@dataclass(frozen=True, slots=True, eq=False)
class TokenRegions:
    """The visual tokens of one picture, in token order.

    Parameters
    ----------
    boxes
        (n, 4) float64, original pixels, clipped to the picture; NaN for a token that stands for no region (newline, separator).
    scale
        (n, 2) float64, processed pixels per original pixel along x and y; NaN where there is no box.
    view, row, col
        (n,) int64 place of the token; -1 where there is none.
    image_index
        (n,) int64, the picture of the prompt the token belongs to.
    """

    boxes: NDArray[np.float64]
    scale: NDArray[np.float64]
    view: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    image_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def join(parts: Sequence[TokenRegions]) -> TokenRegions:
        """The tokens of several views or pictures, one after the other."""
        names = ("boxes", "scale", "view", "row", "col", "image_index")
        return TokenRegions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


ImageRegions = Callable[[Any, Any, Size, int, Mapping[str, NDArray[Any]]], TokenRegions]


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its Hugging Face `model_type` and its one fact.

    Parameters
    ----------
    model_type
        ``config.model_type`` of the whole vision-language model.
    image_regions
        ``(processor, config, (width, height), image_index, inputs) -> TokenRegions`` for one picture of the prompt. `inputs` are
        the processor's outputs as numpy arrays, for families whose grid depends on them.
    """

    model_type: str
    image_regions: ImageRegions


def grid(
    rows: int,
    cols: int,
    cell: tuple[float, float],
    origin: tuple[float, float],
    scale: tuple[float, float],
    size: Size,
    *,
    view: int = 0,
    image_index: int = 0,
) -> TokenRegions:
    """A row-major grid of equal cells laid over a picture.

    Parameters
    ----------
    rows, cols
        Cells down and across.
    cell
        Width and height of a cell, processed pixels.
    origin
        Where the first cell begins, in processed pixels of the resized picture (positive: the left or top was cropped away).
    scale
        Processed pixels per original pixel along x and y.
    size
        Width and height of the original picture; cells are clipped to it, and a cell wholly outside stands for no region.
    """
    x = (np.stack([np.arange(cols), np.arange(cols) + 1], axis=1) * cell[0] + origin[0]) / scale[0]
    y = (np.stack([np.arange(rows), np.arange(rows) + 1], axis=1) * cell[1] + origin[1]) / scale[1]
    return lattice(x, y, scale, size, view=view, image_index=image_index)


def lattice(
    columns: NDArray[np.floating],
    rows: NDArray[np.floating],
    scale: tuple[float, float],
    size: Size,
    *,
    view: int = 0,
    image_index: int = 0,
) -> TokenRegions:
    """A row-major lattice of cells that need not be equal, nor touch.

    Parameters
    ----------
    columns, rows
        (n, 2) where each column and row begins and ends, original pixels.
    scale, size, view, image_index
        As for `grid`.
    """
    row, col = (index.ravel() for index in np.indices((len(rows), len(columns))))
    boxes = np.stack([columns[col, 0], rows[row, 0], columns[col, 1], rows[row, 1]], axis=1).astype(np.float64)
    boxes = np.clip(boxes, 0.0, (*size, *size))
    outside = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    scales = np.tile(np.asarray(scale, dtype=np.float64), (len(boxes), 1))
    boxes[outside], scales[outside] = np.nan, np.nan
    return TokenRegions(boxes, scales, np.full(len(boxes), view), row, col, np.full(len(boxes), image_index))


def no_region(count: int, *, image_index: int = 0) -> TokenRegions:
    """`count` tokens that stand for no region of the picture."""
    nowhere = np.full(count, -1)
    return TokenRegions(np.full((count, 4), np.nan), np.full((count, 2), np.nan), nowhere, nowhere, nowhere, np.full(count, image_index))
