"""Attention of vision-language models, laid over the picture it looks at.

Public names are loaded on first use, so that ``import interp`` imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.analysis import profile_layers as profile_layers
    from interp.benchmarks import load_benchmark as load_benchmark
    from interp.benchmarks.sample import Region as Region
    from interp.benchmarks.sample import Sample as Sample
    from interp.capture import open_trace as open_trace
    from interp.capture import trace as trace
    from interp.methods import evaluate as evaluate
    from interp.methods import open_answers as open_answers
    from interp.vlm import VLM as VLM
    from interp.vlm import load_vlm as load_vlm

__version__ = "0.1.0"

_PUBLIC = {
    "load_vlm": "interp.vlm",
    "VLM": "interp.vlm",
    "trace": "interp.capture",
    "open_trace": "interp.capture",
    "evaluate": "interp.methods",
    "open_answers": "interp.methods",
    "profile_layers": "interp.analysis",
    "Sample": "interp.benchmarks.sample",
    "Region": "interp.benchmarks.sample",
    "load_benchmark": "interp.benchmarks",
}

__all__ = ["VLM", "Region", "Sample", "evaluate", "load_benchmark", "load_vlm", "open_answers", "open_trace", "profile_layers", "trace"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if not name.startswith("_") and find_spec(f"interp.{name}") is not None:
        return import_module(f"interp.{name}")
    raise AttributeError(f"module 'interp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
