"""Maps and highlighted pictures of one sample by the equations written here, fault by fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from experiments.authors import equations
from experiments.authors.equations import Faults, Floats, View

Bytes = NDArray[np.uint8]


def views_of(one: xr.Dataset, layers: Sequence[int]) -> list[View]:
    """Equation 1 on a trace's sample: attention averaged over `layers` and their heads, as the grids it stands in. One picture."""
    values = one["attention"].sel(layer=list(layers)).values.astype(np.float64).mean(axis=(0, 1))
    boxes, view, row, col = (one[name].values for name in ("token_box", "view", "row", "col"))
    found = []
    for number in np.unique(view[~np.isnan(boxes[:, 0])]):
        mine = (view == number) & ~np.isnan(boxes[:, 0])
        grid = np.full((row[mine].max() + 1, col[mine].max() + 1), np.nan)
        columns, rows = np.empty((grid.shape[1], 2)), np.empty((grid.shape[0], 2))
        grid[row[mine], col[mine]] = values[mine]
        columns[col[mine]], rows[row[mine]] = boxes[mine][:, [0, 2]], boxes[mine][:, [1, 3]]
        found.append(View(grid, columns, rows))
    return found


class Painter:
    """Maps of samples, each made once: most faults leave most maps as they are."""

    def __init__(self) -> None:
        self._made: dict[Any, Floats] = {}

    def map(self, name: str, one: xr.Dataset, layers: Sequence[int], size: tuple[int, int], faults: Faults) -> Floats:
        """The map of sample `name`, with these faults."""
        views = views_of(one, layers)
        calm = [equations.without_spikes(view.grid, 10.0, faults) for view in views]
        kind = faults & {equations.REFLECTION, equations.CONSTANT}
        key = (name, kind, *(grid.tobytes() for grid in calm))
        if key not in self._made:
            if len(self._made) > 500:
                self._made.clear()
            self._made[key] = equations.evidence(views, size, faults=faults)
        return self._made[key]


def pixels(picture: Image.Image) -> Bytes:
    """(height, width, 3)."""
    return np.asarray(picture.convert("RGB"))


def cropped(picture: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to `side`, the centre cropped, de-normalised: what an attributing model of that kind sees of a picture."""
    width, height = picture.size
    scale = side / min(width, height)
    resized = picture.resize((max(side, int(width * scale)), max(side, int(height * scale))), Image.Resampling.BICUBIC)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return Image.fromarray(equations.rendered(pixels(resized.crop((left, top, left + side, top + side)))))


def squashed(picture: Image.Image, side: int) -> Image.Image:
    """Both sides resized to `side`, de-normalised: what a model of another kind sees."""
    return Image.fromarray(equations.rendered(pixels(picture.resize((side, side), Image.Resampling.BICUBIC))))
