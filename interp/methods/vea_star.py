"""VEA*: the original picture and the highlighted one, one after the other, in one prompt (paper, camera-ready experiments)."""

from __future__ import annotations

from interp.methods.method import Method
from interp.methods.trained import TWO_IMAGES

VEA_STAR = Method(
    "vea-star",
    "original picture, then the same highlighted by the profiled attention, VEA prompt",
    lambda batch: batch.show(batch.maps, beside=True),
    needs_map=True,
    forms=("vea", TWO_IMAGES),
)
"""Source: arXiv 2510.17771, camera-ready experiments: the original and the highlighted image together. Defaults are those of `vea`
(`alpha` = 0.5, `sigma` = 0.5, `lam` = 10, profiled fraction 0.1).

Deviations: the paper gives neither order nor wording, and its authors' code has no VEA*; here the originals come first, all of a sample's,
then the highlighted ones in the same order, and the wording is VEA's, which says nothing of two. Otherwise as of `vea`.
"""
