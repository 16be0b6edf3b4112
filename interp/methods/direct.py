"""The original picture, asked plainly (`base`), and with the wording that speaks of a highlight (`inst`: the wording's own effect)."""

from __future__ import annotations

from interp.methods.method import Method

BASE = Method("base", "original picture, base prompt", lambda batch: batch.base, forms=("base",))
INST = Method("inst", "original picture, VEA prompt", lambda batch: batch.ask("vea"), forms=("vea",))
