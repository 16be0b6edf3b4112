"""The original picture, asked plainly (`base`), and with the wording that speaks of a highlight (`inst`: the wording's own effect)."""

from __future__ import annotations

from interp.methods.method import Method

BASE = Method("base", "original picture, base prompt", lambda batch: batch.base, forms=("base",))
"""Source: arXiv 2510.17771, appendix prompts, and its authors' code: the plain wording with the abstention clause, answered greedily.

Deviations: the published wording has a slot for the image, here the chat template places the picture; answers have up to 16 tokens
(`max_new_tokens`), theirs up to 50; pictures are as large as the processor makes them, theirs at most 512 x 512 pixels.
"""

INST = Method("inst", "original picture, VEA prompt", lambda batch: batch.ask("vea"), forms=("vea",))
"""Source: as of `base`, with the sentence on the highlighted region before the question. The picture has no highlight, so that what `vea`
gains over `inst` is the highlight's doing.

Deviations: as of `base`.
"""
