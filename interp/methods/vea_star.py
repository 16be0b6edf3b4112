"""VEA*: the original picture and the highlighted one, one after the other, in one prompt (paper, camera-ready experiments).

The paper gives neither order nor wording; here the original comes first, and the wording is VEA's.
"""

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
