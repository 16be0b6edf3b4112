"""An evidence map: where the visual-grounding layers look, on the original picture, from 0 to 1 (paper, Eqs. 1-3)."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.profile import Profile, profiled_map
from interp.errors import InterpError
from interp.geometry import paint
from interp.interventions.variants import Variant, find_variant, is_flat, rescaled

_Floats = NDArray[np.float64]

_KEPT = ("model", "revision", "prompt", "prompt_order")  # provenance of the trace that stays with a map


def evidence_map(
    sample: xr.Dataset,
    profile: Profile | xr.DataArray,
    *,
    image_index: int = 0,
    denoise: bool = True,
    smooth: bool = True,
    sigma: float = 0.5,
    lam: float = 10.0,
    variant: str = "interp",
) -> xr.DataArray:
    """The profiled attention of one sample as a map on its original picture.

    Attention is averaged over the profiled layers and their heads (Eq. 1; heads that cannot reach a token do not count), spikes are
    replaced inside each grid of tokens (Eq. 2), the tokens are painted onto the picture, overlapping views averaged, the painted map is
    smoothed (Eq. 3), and stretched from 0 to 1 over the picture.

    Parameters
    ----------
    sample
        One sample of a trace, ``ds.isel(sample=k)``.
    profile
        The layers; or a map of your own, (token,), that goes through the same steps.
    image_index
        Which of the sample's pictures. Each picture is stretched by itself.
    denoise, smooth
        Leave a step out.
    sigma
        Width of the smoothing, in shorter sides of the original picture.
    lam
        How many times its surroundings a spike exceeds.
    variant
        ``"interp"``, or ``"authors"`` for the formulas of the authors' code as they are.

    Returns
    -------
    xr.DataArray
        (y, x) float32 in [0, 1] at the original resolution, `y` and `x` the pixels' centres. NaN where no token stands for the pixel
        (the model cannot see it). All ones where the attention is constant: a map that singles nothing out dims nothing.

    Raises
    ------
    InterpError
        More than one sample, no token with a value on this picture, a profile of another model or with layers that the sample lacks, or
        a parameter out of its range.

    Examples
    --------
    >>> from interp.testing import traces
    >>> ds = traces()
    >>> profile = interp.profile_layers(ds)
    >>> dict(evidence_map(ds.isel(sample=0), profile).sizes) == dict(zip("xy", ds["image_size"].values[0, 0].tolist()))
    True
    """
    rules = find_variant(variant)
    check_smoothing(sigma, lam)
    if "sample" in sample.dims:
        raise InterpError("An evidence map is of one sample; choose it first with ds.isel(sample=0).")
    tokens = profile if isinstance(profile, xr.DataArray) else _profiled(sample, profile)
    values = tokens.astype(np.float64).values
    boxes = sample["token_box"].values
    mine = (sample["image_index"].values == image_index) & ~np.isnan(boxes[:, 0]) & ~np.isnan(values)
    if not mine.any():
        raise InterpError(
            f"No token with a value stands for a part of image {image_index} of this sample; check image_index, and that the layers reach "
            "the picture."
        )
    size = _size(sample, image_index)
    values, boxes = values[mine], boxes[mine]
    if denoise:
        values = _denoised(values, sample.isel(token=mine), lam, rules)
    width = sigma * min(size) if smooth else 0.0
    painted = _painted(values, boxes, size, width, rules)
    steps = [
        f"mean over layers {list(profile.layers)} and heads" if isinstance(profile, Profile) else "given map",
        *([f"spikes above {lam:g} times their neighbours replaced"] if denoise else []),
        *([f"Gaussian of {width:.4g} px"] if width else []),
        "stretched to 0..1",
    ]
    return xr.DataArray(
        painted.astype(np.float32),
        dims=("y", "x"),
        coords={
            "y": ("y", np.arange(size[1]) + 0.5, {"units": "pixel", "long_name": "from the top of the original picture"}),
            "x": ("x", np.arange(size[0]) + 0.5, {"units": "pixel", "long_name": "from the left of the original picture"}),
        },
        name="evidence_map",
        attrs={
            "long_name": "evidence map",
            "units": "1",
            "sigma_px": width,
            "steps": "; ".join(steps),
            "variant": variant,
            "image_index": image_index,
            **{name: str(sample.attrs[name]) for name in _KEPT if name in sample.attrs},
            **({"sample": str(sample["sample"].item())} if "sample" in sample.coords else {}),
        },
    )


def check_smoothing(sigma: float, lam: float) -> None:
    """Refuse a width or a spike factor that means nothing.

    Raises
    ------
    InterpError
        `sigma` is negative or not finite, or `lam` is under 1.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InterpError(f"sigma={sigma} is not a width; give 0 or more, in shorter sides of the picture (the paper uses 0.5).")
    if not lam >= 1:
        raise InterpError(f"lam={lam} would call ordinary cells spikes; give 1 or more (the paper uses 10).")


def _profiled(sample: xr.Dataset, profile: Profile) -> xr.DataArray:
    if "model" in sample.attrs:
        profile.check(sample.attrs, ())  # which pictures it was fitted on matters for a comparison, not for a look
    missing = sorted(set(profile.layers) - {int(layer) for layer in sample["layer"].values})
    if missing:
        raise InterpError(f"This sample has no layer {missing[0]}, which the profile names; use a profile of the same model.")
    return profiled_map(sample, profile)


def _size(sample: xr.Dataset, image_index: int) -> tuple[int, int]:
    width, height = sample["image_size"].isel(image=image_index).values
    return int(width), int(height)


def _denoised(values: _Floats, tokens: xr.Dataset, lam: float, rules: Variant) -> _Floats:
    view, row, col = (tokens[name].values for name in ("view", "row", "col"))
    result = values.copy()
    for one in np.unique(view):
        here = view == one
        grid = np.full((row[here].max() + 1, col[here].max() + 1), np.nan)
        grid[row[here], col[here]] = values[here]
        result[here] = rules.denoise(grid, lam)[row[here], col[here]]
    return result


def _painted(values: _Floats, boxes: _Floats, size: tuple[int, int], sigma: float, rules: Variant) -> _Floats:
    painted = paint(values, boxes, size)
    if is_flat(values):
        return np.where(np.isnan(painted), np.nan, rules.flat)
    if sigma:
        painted = np.where(np.isnan(painted), np.nan, rules.smooth(values, boxes, size, sigma))
    return rescaled(painted, rules.flat)
