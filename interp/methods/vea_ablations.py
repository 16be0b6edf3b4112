"""VEA with one step left out: no spike replaced, nothing smoothed, no layer chosen, no word of the highlight.

The first three are in the paper's ablation table, the last only in the authors' code. Defaults and deviations are those of `vea`
(`interp.methods.vea`), but for the step that is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp.methods.batch import Batch
from interp.methods.method import Method


def _everywhere(batch: Batch, index: int) -> NDArray[np.floating]:
    """(token,) attention averaged over all layers and heads that reach a token."""
    return batch.seen(index)["attention"].astype(np.float32).mean(["layer", "head"]).values


NO_DENOISE = Method(
    "vea-no-denoise",
    "VEA without the replacement of spikes (Eq. 2)",
    lambda batch: batch.show(batch.maps_of(batch.profiled, denoise=False)),
    needs_map=True,
    forms=("vea",),
)
"""Source: arXiv 2510.17771, ablation table ("w/o denoise"): Eqs. 1, 3 and 4. Deviations: as of `vea`."""

NO_SMOOTHING = Method(
    "vea-no-smoothing",
    "VEA without the smoothing (Eq. 3)",
    lambda batch: batch.show(batch.maps_of(batch.profiled, denoise=True, smooth=False)),
    needs_map=True,
    forms=("vea",),
)
"""Source: arXiv 2510.17771, ablation table ("w/o smoothing"): Eqs. 1, 2 and 4, the map in blocks. Deviations: as of `vea`."""

ALL_LAYERS = Method(
    "vea-all-layers",
    "VEA with the mean over all layers in place of the profiled ones",
    lambda batch: batch.show(batch.maps_of([_everywhere(batch, k) for k in range(len(batch.samples))], denoise=True)),
    forms=("vea",),
)
"""Source: arXiv 2510.17771, ablation table ("w/o profiling"): Eqs. 2 to 4. The paper does not say what stands in for the profiled layers;
as in its authors' code it is all of them, so that no profile is needed. Deviations: as of `vea`.
"""

NO_PROMPT = Method(
    "vea-no-prompt",
    "picture highlighted by the profiled attention, base prompt",
    lambda batch: batch.show(batch.maps, "base"),
    needs_map=True,
    forms=("base",),
)
"""Source: the authors' code of arXiv 2510.17771: Eqs. 1 to 4, asked in the base wording. Deviations: as of `vea`."""
