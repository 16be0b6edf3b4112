"""A highlighted picture: what the map passes over is dimmed (paper, Eq. 4)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from interp.errors import InterpError
from interp.interventions.variants import find_variant


def highlight(image: Image.Image, evidence_map: xr.DataArray | ArrayLike, alpha: float = 0.5, variant: str = "interp") -> Image.Image:
    """The picture times ``alpha + (1 - alpha) * evidence_map``, pixel by pixel.

    Parameters
    ----------
    image
        The original picture.
    evidence_map
        (y, x) in [0, 1], of the picture's size; NaN keeps a pixel as it is.
    alpha
        How bright the dimmest pixel stays, 0 to 1. At 1 the result is the picture, pixel for pixel.
    variant
        ``"interp"`` rounds, ``"authors"`` cuts off, which darkens by up to a level even where the gain is one.

    Returns
    -------
    Image.Image
        RGB, of the same size.

    Raises
    ------
    InterpError
        `alpha` or a value of the map is outside [0, 1], or the map is of another size.
    """
    rules = find_variant(variant)
    pixels = np.asarray(image.convert("RGB"))
    gains = gain(evidence_map, alpha)
    if gains.shape != pixels.shape[:2]:
        raise InterpError(
            f"The map is {_size(gains)} (width x height) and the picture {_size(pixels)}; make the map from a trace of this very picture."
        )
    return Image.fromarray(rules.to_bytes(pixels * gains[:, :, None]))


def gain(evidence_map: xr.DataArray | ArrayLike, alpha: float = 0.5) -> NDArray[np.float64]:
    """What each pixel (y, x) is multiplied with: ``alpha + (1 - alpha) * evidence_map``, and 1 where the map is NaN.

    Raises
    ------
    InterpError
        `alpha` or a value of the map is outside [0, 1], or the map has not two dimensions.
    """
    check_alpha(alpha)
    values = np.asarray(evidence_map, dtype=np.float64)
    if values.ndim != 2:
        raise InterpError(f"An evidence map has two dimensions (y, x), this one has {values.ndim}; pass the map of one picture.")
    if ((values < 0) | (values > 1)).any():
        raise InterpError(
            f"The map reaches from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}, but must stay in [0, 1]; make it with evidence_map."
        )
    # written this way, a map value of one gives a gain of exactly one for every alpha
    return np.where(np.isnan(values), 1.0, 1 - (1 - alpha) * (1 - values))


def check_alpha(alpha: float) -> None:
    """Refuse an `alpha` that is no share.

    Raises
    ------
    InterpError
        It is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InterpError(f"alpha={alpha} is outside [0, 1]; 1 leaves the picture as it is, 0 blackens what the map passes over.")


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
