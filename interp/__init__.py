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
    from interp.capture.features import token_features as token_features
    from interp.capture.sinks import sinks as sinks
    from interp.certificate import Certificate as Certificate
    from interp.certificate import check as check
    from interp.loading import load_vlm as load_vlm
    from interp.methods import evaluate as evaluate
    from interp.methods import open_answers as open_answers
    from interp.vlm import VLM as VLM

__version__ = "0.1.0"

_PUBLIC = {
    "load_vlm": "interp.loading",
    "VLM": "interp.vlm",
    "trace": "interp.capture",
    "open_trace": "interp.capture",
    "token_features": "interp.capture.features",
    "sinks": "interp.capture.sinks",
    "check": "interp.certificate",
    "Certificate": "interp.certificate",
    "evaluate": "interp.methods",
    "open_answers": "interp.methods",
    "profile_layers": "interp.analysis",
    "Sample": "interp.benchmarks.sample",
    "Region": "interp.benchmarks.sample",
    "load_benchmark": "interp.benchmarks",
}

__all__ = [
    "VLM",
    "Certificate",
    "Region",
    "Sample",
    "check",
    "evaluate",
    "load_benchmark",
    "load_vlm",
    "open_answers",
    "open_trace",
    "profile_layers",
    "sinks",
    "token_features",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(_imported(_PUBLIC[name]), name)
    if not name.startswith("_") and find_spec(f"interp.{name}") is not None:
        return _imported(f"interp.{name}")
    raise AttributeError(f"module 'interp' has no attribute {name!r}")


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, RuntimeError):
        # a torchvision built for another torch breaks most of transformers, far from where it says so
        if find_spec("torchvision") is not None:
            import_module("interp.processors").torchvision_works()
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
