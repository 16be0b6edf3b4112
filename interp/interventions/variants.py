"""Two readings of the paper's Eqs. 2-4: this package's, and the authors' published code as it is, for comparison.

The authors' borders repeat the edge (a border cell is then its own neighbour, and no spike there is ever found), their blur reflects,
a constant map becomes zeros (the whole picture is dimmed), and pixels are cut off rather than rounded. Here both act on the original
picture; the authors' code acts on the model's own rendering of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from interp.errors import InterpError
from interp.geometry import paint
from interp.interventions.smoothing import blurred
from interp.interventions.spikes import replace_spikes

_Floats = NDArray[np.float64]

# Relative spread under which a map is constant: attention is kept in single precision.
_FLAT = 1e-6


@dataclass(frozen=True)
class Variant:
    """How a map is made and shown.

    Parameters
    ----------
    denoise
        (grid with NaN where there is no token, factor) -> grid; Eq. 2.
    smooth
        (values, boxes, (width, height), sigma in pixels) -> map (height, width); Eq. 3.
    flat
        What a constant map becomes.
    to_bytes
        Pixels as real numbers -> uint8; Eq. 4.
    """

    denoise: Callable[[_Floats, float], _Floats]
    smooth: Callable[[_Floats, _Floats, tuple[int, int], float], _Floats]
    flat: float
    to_bytes: Callable[[_Floats], NDArray[np.uint8]]


def is_flat(values: _Floats) -> bool:
    """Whether all values are one, up to single precision."""
    return bool(np.ptp(values) <= _FLAT * np.abs(values).max())


def rescaled(painted: _Floats, flat: float) -> _Floats:
    """The map from 0 to 1 over its real pixels; `flat` everywhere where it is constant."""
    real = ~np.isnan(painted)
    low, high = painted[real].min(), painted[real].max()
    return np.where(real, (painted - low) / (high - low) if high > low else flat, np.nan)


def find_variant(name: str) -> Variant:
    """The variant called `name`.

    Raises
    ------
    InterpError
        There is none of that name.
    """
    if name not in _VARIANTS:
        raise InterpError(f"Variant {name!r} is unknown; use {' or '.join(_VARIANTS)}.")
    return _VARIANTS[name]


def _edge_repeated(grid: _Floats, lam: float) -> _Floats:
    rows, cols = grid.shape
    if min(rows, cols) < 3:
        return grid
    padded = np.pad(grid, 1, mode="edge")
    shifts = [(down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1)]
    around = np.stack([padded[down : down + rows, right : right + cols] for down, right in shifts])
    return np.where(grid > lam * around.max(axis=0), around.mean(axis=0), grid)


def _reflected(values: _Floats, boxes: _Floats, size: tuple[int, int], sigma: float) -> _Floats:
    painted = paint(values, boxes, size)
    rows, cols = (np.flatnonzero(~np.isnan(painted).all(axis=axis)) for axis in (1, 0))
    # the map ends where the tokens end, as the authors' rendering does
    part = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    painted[part] = gaussian_filter(np.nan_to_num(painted[part]), sigma, mode="reflect")
    return painted


def _rounded(pixels: _Floats) -> NDArray[np.uint8]:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _truncated(pixels: _Floats) -> NDArray[np.uint8]:
    return np.clip(pixels, 0, 255).astype(np.uint8)


_VARIANTS = {
    "interp": Variant(replace_spikes, blurred, 1.0, _rounded),
    "authors": Variant(_edge_repeated, _reflected, 0.0, _truncated),
}
