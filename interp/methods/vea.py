"""VEA: the picture highlighted by profiled attention, and the wording that speaks of the highlight (paper, Eqs. 1-4)."""

from __future__ import annotations

from interp.methods.method import Method

VEA = Method(
    "vea", "picture highlighted by the profiled attention, VEA prompt", lambda batch: batch.show(batch.maps), needs_map=True, forms=("vea",)
)
