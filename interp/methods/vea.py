"""VEA: the picture highlighted by profiled attention, and the wording that speaks of the highlight (paper, Eqs. 1-4)."""

from __future__ import annotations

from interp.methods.method import Method

VEA = Method(
    "vea", "picture highlighted by the profiled attention, VEA prompt", lambda batch: batch.show(batch.maps), needs_map=True, forms=("vea",)
)
"""Source: arXiv 2510.17771, Eqs. 1-4, and its authors' code. Attention of the last token of the base prompt, mean over heads and over the
profiled layers (Eq. 1; `interp.profile_layers` takes the best 0.1 of them by AUROC, rounded up); a token above `lam` = 10 times each of
its neighbours becomes their mean (Eq. 2); Gaussian of `sigma` = 0.5 shorter sides (Eq. 3); stretched from 0 to 1; the picture times
``alpha + (1 - alpha) * map`` with `alpha` = 0.5 (Eq. 4), asked about in the VEA wording.

Deviations from the authors' code, of which ``variant="authors"`` takes back those marked *: in Eq. 2 a token on the border has fewer
neighbours, where theirs is its own neighbour and never a spike, small grids count as well, and two touching tokens that each exceed `lam`
times everything around the pair are both replaced*; in Eq. 3 nothing lies outside the picture, where theirs reflects at the border, which
moves the peak towards the corner*; a constant map leaves the picture as it is, where theirs dims all of it*; pixels are rounded, not cut
off*. The map lies on the original picture, view by view where there are several, and so does the highlight; theirs are on the model's own
rendering, which is then processed again. `sigma` is always in shorter sides; theirs above 1 is in pixels. Layers or heads that cannot
reach a token do not count in its mean. Of several pictures each is stretched by itself. Otherwise as of `base`.
"""
