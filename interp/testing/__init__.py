"""What tests, examples and measurements need: tiny random models, a benchmark model, seeded samples and seeded traces.

Tiny models have the layers, heads, processor and chat template of the real family and random weights; their attention is peaky, so that
a wrong row is far from the right one. No file and no network is used.
"""

from __future__ import annotations

from interp.testing.asked import bench_samples, samples
from interp.testing.carrier import carrying_head
from interp.testing.models import TINY, bench_model, tiny_vlm
from interp.testing.plants import planted, planted_answers
from interp.testing.synthetic import traces
from interp.testing.words import WORDS, tokenizer

__all__ = [
    "TINY",
    "WORDS",
    "bench_model",
    "bench_samples",
    "carrying_head",
    "planted",
    "planted_answers",
    "samples",
    "tiny_vlm",
    "tokenizer",
    "traces",
]
