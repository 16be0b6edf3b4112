"""Does it hurt when attention was wrong? A score, binned by how well the attention found the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xarray as xr

from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError

EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)


def by_grounding_quality(
    values: xr.DataArray,
    quality: xr.DataArray,
    clusters: xr.DataArray,
    edges: Sequence[float] = EDGES,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Mean of `values` in bins of `quality`.

    Parameters
    ----------
    values
        (sample, ...): a score, or a difference of scores, for example (method, sample).
    quality
        (sample,): usually the AUROC of the profiled map.
    clusters
        (sample,): pictures, resampled as a whole.
    edges
        Of the bins, ascending. A bin holds its lower edge, the last one its upper edge too.

    Returns
    -------
    xr.Dataset
        `mean` (bin, ...), its percentile `interval` (bin, ci_bound, ...), and `n` (bin, ...), samples with a value. `bin` is labelled
        "0.50 to 0.70" and has coordinates `lower` and `upper`. In the attributes `n_undefined`, samples without a quality.

    Raises
    ------
    InterpError
        Edges do not ascend, or a quality lies outside them; or the arrays are not of the same samples.
    """
    bounds = [float(edge) for edge in edges]
    if len(bounds) < 2 or any(not low < high for low, high in pairwise(bounds)):
        raise InterpError(f"Edges {tuple(bounds)} do not ascend; give two or more, for example {EDGES}.")
    if not values.sizes.get("sample") == quality.sizes.get("sample") == clusters.sizes.get("sample"):
        raise InterpError("Values, quality and clusters are not of the same samples; take all three from one result.")
    measured = quality.values.astype(np.float64)
    outside = measured[(measured < bounds[0]) | (measured > bounds[-1])]
    if outside.size:
        raise InterpError(f"Quality {outside[0]:.3g} is outside the edges {bounds[0]:g} to {bounds[-1]:g}; widen the edges.")
    place = np.minimum(np.searchsorted(bounds, measured, side="right") - 1, len(bounds) - 2)
    bare = values.drop_vars([name for name, coord in values.coords.items() if "sample" in coord.dims])
    plain = xr.DataArray(clusters.values, dims="sample", name=clusters.name)
    results = []
    for index in range(len(bounds) - 1):
        kept = np.flatnonzero((place == index) & ~np.isnan(measured))
        if kept.size:
            results.append(mean_interval(bare[{"sample": kept}], plain[kept], level=level, n_resamples=n_resamples, seed=seed))
        else:
            results.append(None)
    template = next((result for result in results if result is not None), None)
    if template is None:
        raise InterpError("No sample has a grounding quality; use samples with evidence boxes the model can see.")
    empty = template.where(False).assign(n=xr.zeros_like(template["n"]))
    result = xr.concat([empty if each is None else each for each in results], dim="bin")
    pairs = list(pairwise(bounds))
    result = result.assign_coords(
        bin=[f"{low:.2f} to {high:.2f}" for low, high in pairs],
        lower=("bin", [low for low, _ in pairs]),
        upper=("bin", [high for _, high in pairs]),
    )
    result["mean"].attrs |= {"long_name": f"mean of {values.attrs.get('long_name', values.name or 'the values')}"}
    result["n"].attrs |= {"long_name": "samples", "units": "1"}
    result["bin"].attrs |= {"long_name": str(quality.attrs.get("long_name", quality.name or "grounding quality"))}
    return result.assign_attrs(edges=bounds, n_undefined=int(np.isnan(measured).sum()), level=level)
